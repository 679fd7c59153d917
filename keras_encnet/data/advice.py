"""What unexpected mask values may mean, and what to do about them: errors and warnings that advise."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

WHITE = 255  # the foreground of masks that are black and white
NEARLY_WHITE = 250  # from here, mask values are hardly ever numbers of classes
RARE = 0.1  # a class is rare if it has less than this part of a class's average share of the pixels


class Reading(NamedTuple):
    """What mask values may mean, and what to do then.

    - `meaning`: "11 is most likely void", for instance.
    - `label_map`: as for `keras_encnet.data.folder`.
    - `num_classes`: the number of classes that the model needs.
    - `remedy`: something else to do.
    """

    meaning: str
    label_map: dict[int, int] | None = None
    num_classes: int | None = None
    remedy: str | None = None


class _Advice:
    """A message about mask values: what was found, and how it may be read, most likely first."""

    def __init__(self, found: str, readings: Sequence[Reading] = ()):
        super().__init__(found, tuple(readings))
        self.found, self.readings = found, tuple(readings)

    def text(self, *, command_line: bool = False) -> str:
        """The message, with the arguments of Python functions or of the command line."""
        return " ".join(advised(self.found, self.readings, command_line=command_line))

    def __str__(self):
        return self.text()


def advised(found: str, readings: Sequence[Reading], *, command_line: bool = False) -> list[str]:
    """What was found, and for each reading of it a sentence with what it means and asks for.

    >>> advised("Received: 7.", [Reading("If 7 is a class", num_classes=8)])
    ['Received: 7.', 'If 7 is a class: the model needs num_classes=8.']
    """
    return [found, *(f"{each.meaning}: {_spelled(each, command_line)}." for each in readings)]


class MaskError(_Advice, ValueError):
    """Mask values that cannot be trained on. `str(error)` has the remedy in Python's words.

    `error.text(command_line=True)` has it in those of the command line.

    >>> error = MaskError("Received: 255.", [Reading("If 255 is the foreground", {255: 1})])
    >>> error.text(command_line=True)
    'Received: 255. If 255 is the foreground: pass --label-map 255:1.'
    """


class MaskWarning(_Advice, UserWarning):
    """Mask values that may be wrong. It has the same methods as `MaskError`."""


JPEG = Reading(
    "JPEG changes values near edges, so that labels are wrong even where they are among the classes; "
    "which and how many cannot be known from the files",
    remedy="save the original masks as PNG",
)


def is_outside(value: int, num_classes: int, ignore_index: int) -> bool:
    """Whether a mask value is neither a class nor ignored."""
    return value != ignore_index and not 0 <= value < num_classes


def outside_values(counts: Mapping[int, int], num_classes: int, ignore_index: int) -> dict[int, int]:
    """The part of {mask value: pixels} with values that are neither a class nor ignored.

    >>> outside_values({0: 90, 7: 5, 255: 5}, num_classes=2, ignore_index=255)
    {7: 5}
    """
    return {
        value: pixels
        for value, pixels in counts.items()
        if is_outside(value, num_classes, ignore_index)
    }


def readings(totals: Mapping[int, int], num_classes: int, ignore_index: int) -> list[Reading]:
    """What mask values of which some are outside the classes may mean, most likely first.

    Args:
        totals: {mask value: pixels} of all masks.
        num_classes: number of classes.
        ignore_index: mask value of ignored pixels.

    >>> readings({0: 170, 1: 790, 2: 40}, num_classes=2, ignore_index=255)[0]
    Reading(meaning='Most likely 2 marks pixels without a class (0 has 17.0% of the pixels)',
    label_map={2: 255}, num_classes=None, remedy=None)
    """
    values = sorted(totals)
    outside = sorted(outside_values(totals, num_classes, ignore_index))
    most = outside[-1]
    if num_classes == 1 and [value for value in values if value != ignore_index] == [0, most]:
        label_map = {most: 1} if most > 1 else None
        return [Reading("The background is a class of its own", label_map, 2)]
    if values[0] == 0 and len(values) == num_classes and _are_spread(values):
        meaning = "Most likely the labels are spread over shades of grey"
        if len(values) == 2:
            meaning = f"Most likely {most} is the foreground"
        spread = {value: label for label, value in enumerate(values) if value}
        return [Reading(meaning, spread)]
    if values == [0, WHITE]:
        return [Reading("Most likely 255 is the foreground", {WHITE: 1})]
    mark = "mark pixels" if len(outside) > 1 else "marks pixels"
    ignored = {value: ignore_index for value in outside}
    void = Reading(f"Most likely {_and(outside)} {mark} without a class", ignored)
    if outside == [num_classes]:
        return _readings_of_one_more(totals, num_classes, ignore_index, void)
    if len(outside) <= 3 and all(value < 0 or value >= NEARLY_WHITE for value in outside):
        return [void]
    classes = Reading("If they are classes", num_classes=most + 1)
    if not any(0 <= value < num_classes for value in values):
        first = outside[0]
        if first > 0 and outside == list(range(first, first + num_classes)):
            shifted = {value: value - first for value in outside}
            return [Reading(f"Most likely the labels are shifted by {first}", shifted), classes]
        if most > 0:
            return [classes, void._replace(meaning="If they mark pixels without a class")]
    if len(outside) == 1:
        return [void, classes._replace(meaning=f"If {most} is a class")]
    void = void._replace(meaning=f"If the values from {num_classes} up mark pixels without a class")
    if 0 <= values[0] and outside[0] <= num_classes and most < min(NEARLY_WHITE, 2 * len(values)):
        if values[0] == 1:
            meaning = f"Most likely there are {most} classes, and the labels are shifted by one"
            return [Reading(meaning, _shift(most, ignore_index), most), void]
        return [classes._replace(meaning=f"Most likely there are {most + 1} classes"), void]
    blended = Reading(
        "Values in between come from JPEG, antialiasing, or resizing that blends",
        remedy="save the original masks as PNG, and resize with nearest neighbour",
    )
    void = void._replace(meaning="If they mark pixels without a class")
    return [blended, *([void] if len(outside) <= 5 else []), *([classes] if most > 0 else [])]


def outside_error(
    totals: Mapping[int, int],
    num_classes: int,
    ignore_index: int,
    where: str = "",
    jpegs: float = 0,
) -> MaskError:
    """The error about mask values outside the classes.

    Args:
        totals, num_classes, ignore_index: as for `readings`.
        where: ": 7 (9 pixels) in masks/2.png", for instance.
        jpegs: the share of masks that are JPEG files.
    """
    found = (
        f"Mask values must be one of the {num_classes} classes (0 to {num_classes - 1}) or "
        f"{ignore_index} (ignored). Received: "
        f"{listed_values(outside_values(totals, num_classes, ignore_index))}{where}."
    )
    likely = [] if jpegs == 1 else readings(totals, num_classes, ignore_index)
    return MaskError(found, [JPEG, *likely] if jpegs else likely)


def jpeg_warning(jpegs: Sequence[str], count: int) -> MaskWarning:
    """The warning about masks that are JPEG files.

    Args:
        jpegs: their paths.
        count: the number of all masks.
    """
    found = (
        f"Masks must be files that keep every value, PNG for instance. Received: {len(jpegs)} of "
        f"{count} masks as JPEG, {jpegs[0]} first."
    )
    return MaskWarning(found, [JPEG])


def absent_warning(absent: Sequence[int], labels: Sequence[str] | None) -> MaskWarning:
    """The warning about classes that no mask has.

    Args:
        absent: these classes.
        labels: names of all classes, or `None`.
    """
    return MaskWarning(
        f"No mask has {listed_classes(absent, labels)}. The model cannot learn a class without "
        "examples. Check the number of classes and the order of their names."
    )


def too_few_classes(
    totals: Mapping[int, int], num_classes: int, ignore_index: int, where: str = ""
) -> tuple[str, str, list[Reading]] | None:
    """What is wrong with masks that have no class, or one class and ignored pixels.

    Args:
        totals, num_classes, ignore_index: as for `readings`, without values outside the classes.
        where: " in the training data", for instance.

    Returns:
        `None`, or the kind, "ignored" or "one class", and the arguments of `MaskError`.

    >>> kind, found, _ = too_few_classes({255: 9}, 2, 255)
    >>> kind, found
    ('ignored', 'Masks must have pixels that are not ignored. Received: only 255, which is ignored.')
    """
    present = [value for value in sorted(totals) if 0 <= value < num_classes]
    if not present:
        found = (
            f"Masks must have pixels that are not ignored. Received: only {ignore_index}, which is "
            f"ignored{where}."
        )
        return "ignored", found, [Reading(f"If {ignore_index} is a class", {ignore_index: 0})]
    if len(present) > 1 or ignore_index not in totals:
        return None
    found = (
        f"Masks with ignored pixels must have two classes or more. Received: only {present[0]} and "
        f"{ignore_index}, which is ignored{where}, so that a model that always predicts {present[0]} "
        "would be perfect."
    )
    other = 1 if present == [0] else 0
    meaning = f"If {ignore_index} is the {'foreground' if other else 'background'}"
    needed = 2 if num_classes == 1 else None
    return "one class", found, [Reading(meaning, {ignore_index: other}, needed)]


def listed_values(counts: Mapping, most: int = 5) -> str:
    """The most frequent of mask values, `{value: pixels}`, for a message.

    >>> listed_values({7: 3, 9: 40})
    '9 (40 pixels), 7 (3 pixels)'
    """
    largest = sorted(counts, key=counts.get, reverse=True)[:most]
    listed = ", ".join(f"{value} ({counts[value]} pixels)" for value in largest)
    return listed + (f" and {len(counts) - most} more values" if len(counts) > most else "")


def listed_classes(classes: Sequence[int], labels: Sequence[str] | None, most: int = 10) -> str:
    """Classes, with their names if `labels` has them, for a message.

    >>> listed_classes([1], ["sky", "road"])
    "this class: 'road' (1)"
    """
    names = [f"{labels[i]!r} ({i})" if labels else str(i) for i in classes[:most]]
    more = f" and {len(classes) - most} more" if len(classes) > most else ""
    return f"{'these classes' if classes[1:] else 'this class'}: {', '.join(names)}{more}"


def _readings_of_one_more(totals, num_classes, ignore_index, void):
    """Readings of the values 0 to `num_classes`, or some of them."""
    pixels, zeros = sum(totals.values()), totals.get(0, 0)
    shift = _shift(num_classes, ignore_index)
    more = Reading(f"If 0 and {num_classes} are both classes", num_classes=num_classes + 1)
    share = f"0 has {zeros / pixels:.1%} of the pixels" if zeros else "no pixel is 0"
    if zeros < RARE * pixels / num_classes:
        meaning = f"Most likely the labels are shifted by one ({share})"
        void = void._replace(meaning=f"If 0 is a class and {num_classes} marks pixels without one")
        return [Reading(meaning, shift), void, more]
    meaning = f"If 0 marks them and the classes, 1 to {num_classes}, are shifted by one as in ADE20K"
    return [void._replace(meaning=f"{void.meaning} ({share})"), Reading(meaning, shift), more]


def _shift(num_classes, ignore_index):
    """The label map for classes that are numbered from 1."""
    return {0: ignore_index, **{value: value - 1 for value in range(1, num_classes + 1)}}


def _are_spread(values):
    """Whether values are at equal distances of 2 or more, except for rounding."""
    steps = np.diff(values)
    return steps.min() >= 2 and np.ptp(steps) <= 1


def _and(values):
    return " and ".join(filter(None, [", ".join(map(str, values[:-1])), str(values[-1])]))


def _spelled(reading, command_line):
    """What to do according to a reading, with the arguments of Python or of the command line."""
    parts = [reading.remedy] if reading.remedy else []
    if reading.label_map and command_line:
        pairs = [f"{old}:{new}" for old, new in reading.label_map.items()]
        # What begins with "-" would be taken for another option.
        negative = min(reading.label_map) < 0
        options = [f"--label-map={pair}" for pair in pairs] if negative else ["--label-map", *pairs]
        parts.append(f"pass {' '.join(options)}")
    elif reading.label_map:
        parts.append(
            f"pass label_map={_dict_text(reading.label_map)} to keras_encnet.data.folder, or change "
            f"arrays: {_array_text(reading.label_map)}"
        )
    if reading.num_classes and command_line:
        parts.append(f"pass --num-classes {reading.num_classes}, or as many names in --labels")
    elif reading.num_classes:
        parts.append(f"the model needs num_classes={reading.num_classes}")
    return ", and ".join(parts)


def _dict_text(label_map):
    if len(label_map) > 5 and _is_shift(label_map):
        return f"{{0: {label_map[0]}, **{{i: i - 1 for i in range(1, {len(label_map)})}}}}"
    first = min(label_map)
    if len(label_map) > 5 and _is_shift_by(first, label_map):
        return f"{{i: i - {first} for i in range({first}, {first + len(label_map)})}}"
    return str(label_map)


def _array_text(label_map):
    """An expression or statement that applies a label map to an array `masks`."""
    if _is_shift(label_map):
        ignored = label_map[0]
        return f"masks = np.where(np.isin(masks, [0, {ignored}]), {ignored}, masks - 1)"
    if len(label_map) > 1 and list(label_map.values()) == list(range(1, len(label_map) + 1)):
        return f"masks = np.searchsorted({[0, *label_map]}, masks)"
    first = min(label_map)
    if len(label_map) > 5 and _is_shift_by(first, label_map):
        values = f"range({first}, {first + len(label_map)})"
        return f"masks = np.where(np.isin(masks, {values}), masks - {first}, masks)"
    return "; ".join(f"masks[masks == {old}] = {new}" for old, new in label_map.items())


def _is_shift(label_map):
    return label_map.keys() > {0} and all(old - 1 == new for old, new in label_map.items() if old)


def _is_shift_by(first, label_map):
    return label_map == {first + label: label for label in range(len(label_map))}
