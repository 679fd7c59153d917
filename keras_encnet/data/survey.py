"""A survey of a data set: its sizes and classes, and what is wrong with it."""

import itertools
import unicodedata
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from keras_encnet.data.advice import outside_values
from keras_encnet.data.conventions import (
    IGNORE_INDEX,
    check_integer,
    class_names,
    class_palette,
    ignore_index_for,
)
from keras_encnet.data.pairs import Pairs
from keras_encnet.data.survey_findings import find_notes, find_problems
from keras_encnet.data.survey_picture import draw_survey
from keras_encnet.data.survey_records import Split, percent, read_records

FEW = 3  # files that the text names
MANY = 50  # unreadable files that it names


def check(
    pairs: Pairs | Sequence | Mapping[str, Pairs | Sequence],
    *,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "Survey":
    """Reads every image and mask once, counts their pixels, and looks for what is wrong.

    Files are read in threads, and their pixels are not kept. A file that cannot be read is noted, and
    the check continues.

    Args:
        pairs: `Pairs`, any sequence of (image, mask), or a dict of such with the names of splits.
        num_classes: number of classes. Default: that of `labels`. Without these, it is what the mask
            values suggest.
        ignore_index: mask value of ignored pixels. Default: 255, or 65535 if 255 is a class.
        progress: called after each pair, with the number of pairs so far and of all.

    Returns:
        A `Survey`. `print(survey)` is the text, `survey.picture()` shows samples and histogram,
        `survey.ok` tells whether there are no problems.

    Raises:
        ValueError: if there are no pairs, the splits have different labels, or `num_classes` or
            `ignore_index` is invalid.

    >>> image, mask = np.zeros((32, 48, 3), "uint8"), np.zeros((32, 48), "uint8")
    >>> mask[:8] = 2
    >>> survey = check(Pairs([(image, mask)] * 4, labels=["sky", "road"]))
    >>> survey.ok, survey.problems[0].kind
    (False, 'outside')
    >>> survey.problems[0].found
    'Mask values must be one of the 2 classes ... Received: 2 (1536 pixels).'
    """
    if not isinstance(pairs, (Pairs, Mapping)) and any(isinstance(each, Pairs) for each in pairs):
        raise ValueError(
            f"`pairs` must be Pairs, or a dict of them. Received: a {type(pairs).__name__} of "
            f"{len(pairs)} Pairs. Name them, {{'train': a, 'val': b}}, or join them, a + b."
        )
    named = pairs if isinstance(pairs, Mapping) else {"": pairs}
    named = {
        str(name): each if isinstance(each, Pairs) else Pairs(each) for name, each in named.items()
    }
    labels, palette = _classes(named)
    if num_classes is not None:
        check_integer("num_classes", num_classes)
        if labels and len(labels) != num_classes:
            raise ValueError(
                f"`num_classes` must be the number of labels. Received: num_classes={num_classes} and "
                f"{len(labels)} labels. Leave it out."
            )
    if ignore_index is not None:
        check_integer("ignore_index", ignore_index, 0)
    total, done = sum(map(len, named.values())), itertools.count(1)
    report = progress and (lambda: progress(next(done), total))
    splits = [Split(name, each, read_records(each, report)) for name, each in named.items()]
    guessed = num_classes is None and not labels
    if num_classes is None:
        num_classes = len(labels) if labels else _likely_classes(splits, ignore_index)
    if ignore_index is None:
        ignore_index = ignore_index_for(num_classes)
    return Survey(splits, labels, palette, num_classes, ignore_index, guessed)


class Survey:
    """What `check` found out about a data set.

    `str(survey)` is a text for people.

    Attributes:
        labels: class names, or `None` if the pairs have none.
        num_classes: number of classes.
        ignore_index: mask value of ignored pixels.
        problems: list of `Finding`: what would stop training or falsify a score. Each has `kind`,
            `split`, `found`, `readings` (what mask values may mean), `where` (all files) and `text()`.
        notes: list of `Finding`: what may be right, and is worth a look.
    """

    def __init__(self, splits, labels, palette, num_classes, ignore_index, guessed=False):
        self._splits, self._guessed = splits, guessed
        self.labels, self._palette = labels, palette
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.problems = find_problems(splits, num_classes, ignore_index)
        self.notes = find_notes(splits, num_classes, ignore_index, labels)

    @property
    def ok(self) -> bool:
        """Whether there are no problems. There may be notes."""
        return not self.problems

    def text(self, *, command_line: bool = False) -> str:
        """The survey for people: sizes, pixels and images of each class, problems and notes.

        Args:
            command_line: whether remedies are spelled with the command line's arguments.
        """
        lines = [_summary(split) for split in self._splits]
        has_masks = any(split.pixels for split in self._splits)
        if self._guessed and has_masks:
            lines.append(
                f"There are no labels. The mask values suggest {_number(self.num_classes, 'class')}."
            )
        if has_masks:
            lines += ["", *self._table()]
        for title, findings in (("Problems", self.problems), ("Notes", self.notes)):
            if findings:
                lines += ["", f"{title}:"]
            for number, finding in enumerate(findings, 1):
                lines += _listed(number, finding, command_line)
        lines += ["", f"{_number(len(self.problems), 'problem')}." if self.problems else "No problems."]
        return "\n".join(lines)

    def __str__(self):
        return self.text()

    def __repr__(self):
        images = sum(len(split.records) for split in self._splits)
        return f"<survey of {_number(images, 'image')}, {_number(len(self.problems), 'problem')}>"

    def to_json(self) -> dict:
        """The survey as a dict for `json.dump`. It names every file that a finding is about.

        >>> image, mask = np.zeros((32, 48, 3), "uint8"), np.eye(32, 48, dtype="uint8")
        >>> check({"train": [(image, mask)]}).to_json()["splits"]["train"]["classes"][1]
        {'value': 1, 'label': 'class 1', 'pixels': 32, 'images': 1}
        """
        names = class_names(self.num_classes, self.labels)
        return {
            "ok": self.ok,
            "num_classes": self.num_classes,
            "ignore_index": self.ignore_index,
            "splits": {split.name: self._split_json(split, names) for split in self._splits},
            "problems": [finding.to_json() for finding in self.problems],
            "notes": [finding.to_json() for finding in self.notes],
        }

    def picture(self) -> Image.Image:
        """Samples with their masks over them, and a histogram of the classes, as an RGB PIL image.

        The samples are read again.
        """
        palette = class_palette(self.num_classes, self._palette)
        names = class_names(self.num_classes, self.labels)
        return draw_survey(self._splits, names, palette, self.ignore_index)

    def _split_json(self, split, names):
        sizes = split.sizes
        return {
            "images": len(split.records),
            "masks": sum(len(record.values) > 0 for record in split.records),
            "sizes": [
                {"height": height, "width": width, "images": images}
                for (height, width), images in sizes.most_common()
            ],
            "classes": [
                {
                    "value": value,
                    "label": name,
                    "pixels": split.pixels[value],
                    "images": split.images[value],
                }
                for value, name in enumerate(names)
            ],
            "ignored": {
                "pixels": split.pixels[self.ignore_index],
                "images": split.images[self.ignore_index],
            },
            "outside": [
                {"value": value, "pixels": split.pixels[value], "images": split.images[value]}
                for value in self._outside(split)
            ],
        }

    def _outside(self, split):
        return sorted(outside_values(split.pixels, self.num_classes, self.ignore_index))

    def _table(self):
        """Lines of the histogram: for each split the share of the pixels, and the number of images."""
        splits = [split for split in self._splits if split.pixels]
        names = class_names(self.num_classes, self.labels)
        rows = [
            [f"{value} {name}", *_cells(splits, lambda split, value=value: [value])]
            for value, name in enumerate(names)
        ]
        if any(split.pixels[self.ignore_index] for split in splits):
            ignored = _cells(splits, lambda split: [self.ignore_index])
            rows.append([f"ignored ({self.ignore_index})", *ignored])
        if any(map(self._outside, splits)):
            rows.append(["outside the classes", *_cells(splits, self._outside)])
        heads = [["class", *["pixels", "images"] * len(splits)]]
        if splits[0].name:
            heads.insert(0, ["", *itertools.chain.from_iterable((split.name, "") for split in splits)])
        rows = heads + rows
        widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
        return [
            _padded(first, widths[0])
            + "".join(
                "  " + _padded(cell, width, right=True)
                for cell, width in zip(rest, widths[1:], strict=True)
            ).rstrip()
            for first, *rest in rows
        ]


def _classes(named):
    """The labels and palette that splits have in common."""
    empty = [name for name, pairs in named.items() if not len(pairs)]
    if empty or not named:
        which = f" in the split {empty[0]!r}" if empty and empty[0] else ""
        raise ValueError(f"A data set must not be empty. Received: no pairs{which}")
    with_labels = {name: pairs for name, pairs in named.items() if pairs.labels is not None}
    if len({tuple(pairs.labels) for pairs in with_labels.values()}) > 1:
        listed = ", ".join(f"{name!r} {pairs.labels}" for name, pairs in with_labels.items())
        raise ValueError(f"All splits must have the same labels. Received: {listed}")
    labels = next((tuple(pairs.labels) for pairs in with_labels.values()), None)
    palettes = (pairs.palette for pairs in named.values() if pairs.palette is not None)
    return labels, next(palettes, None)


def _likely_classes(splits, ignore_index):
    """The number of classes that mask values suggest."""
    ignored = IGNORE_INDEX if ignore_index is None else ignore_index
    values = set().union(*(split.pixels for split in splits)) - {ignored}
    values = {value for value in values if value >= 0}
    if not values:
        return 1
    # Numbered from 1, or spread over shades of grey: there are as many classes as values.
    if 0 not in values or max(values) + 1 > 2 * len(values):
        return len(values)
    return max(values) + 1


def _summary(split):
    """One line about the number of images of a split, and their sizes."""
    masks = "with" if split.pairs.has_masks else "without"
    name = f"{split.name}: " if split.name else ""
    text = f"{name}{_number(len(split.records), 'image')} {masks} masks"
    if not split.sizes:
        return text
    by_area = sorted(split.sizes, key=lambda size: size[0] * size[1])
    if len(by_area) == 1:
        return f"{text}, {_size(by_area[0])} (height×width)"
    usual, images = split.sizes.most_common(1)[0]
    return (
        f"{text}, {len(by_area)} sizes from {_size(by_area[0])} to {_size(by_area[-1])} "
        f"(height×width), most often {_size(usual)} ({_number(images, 'image')})"
    )


def _cells(splits, values_of):
    """For each split the share of the pixels and the number of images with certain values."""
    cells = []
    for split in splits:
        values = values_of(split)
        pixels = sum(split.pixels[value] for value in values)
        # An image may have several of the values.
        images = (
            split.images[values[0]]
            if len(values) == 1
            else sum(bool(np.isin(record.values, values).any()) for record in split.records)
        )
        cells += [percent(pixels, split.pixels.total()), str(images)]
    return cells


def _listed(number, finding, command_line):
    """The lines of one finding."""
    # Long lines are not broken, so that commands in them can be copied.
    found, *readings = finding.sentences(command_line=command_line)
    split = f"{finding.split}: " if finding.split else ""
    indent = " " * 5
    lines = [f"{number:3}. {split}{found}", *(f"{indent}- {reading}" for reading in readings)]
    named = MANY if finding.reasons else FEW
    reasons = finding.reasons or ("",) * len(finding.where)
    for source, reason in list(zip(finding.where, reasons, strict=True))[:named]:
        lines.append(indent + (reason if source in reason else f"{source}: {reason}".rstrip(": ")))
    if len(finding.where) > named:
        lines.append(f"{indent}and {len(finding.where) - named} more")
    return lines


def _number(count, noun):
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _size(size):
    return f"{size[0]}×{size[1]}"


def _columns(text):
    """The columns that a text takes in a terminal: Chinese characters take two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _padded(text, width, right=False):
    spaces = " " * (width - _columns(text))
    return spaces + text if right else text + spaces
