"""What is wrong with a data set, and what is worth a look."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from keras_encnet.data.advice import (
    Reading,
    absent_warning,
    advised,
    is_outside,
    jpeg_warning,
    listed_classes,
    outside_error,
    outside_values,
    too_few_classes,
)
from keras_encnet.data.survey_records import Split, counts

FAULTS = "unreadable", "turned", "sizes", "small"
NEARLY_ALL = 0.999  # share of one class from which a mask is nearly constant


class Finding(NamedTuple):
    """One thing that a survey found.

    - `kind`: "unreadable", "turned", "sizes", "small", "outside", "jpeg", "ignored", "one class" or
      "two splits" for problems; "twice", "may be turned", "only ignored", "single class",
      "nearly constant" or "absent" for what is only worth a look.
    - `split`: the name of the split, "" if it is about all.
    - `found`: what must hold and what was found.
    - `readings`: what mask values may mean, most likely first.
    - `where`: the files or pairs, all of them.
    - `reasons`: for each of `where` a message, or nothing.
    """

    kind: str
    split: str
    found: str
    readings: tuple[Reading, ...] = ()
    where: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def text(self, *, command_line: bool = False) -> str:
        """What was found and what to do, with the arguments of Python or of the command line."""
        return " ".join(self.sentences(command_line=command_line))

    def sentences(self, *, command_line: bool = False) -> list[str]:
        """The same as a list: what was found, then one entry for each of `readings`."""
        return advised(self.found, self.readings, command_line=command_line)

    def to_json(self) -> dict:
        """The finding as a dict for `json.dump`."""
        return {
            "kind": self.kind,
            "split": self.split,
            "text": self.text(),
            "where": list(self.where),
            "reasons": list(self.reasons),
        }


def find_problems(splits: Sequence[Split], num_classes: int, ignore_index: int) -> list[Finding]:
    """What would stop training or falsify a score."""
    problems = []
    for split in splits:
        problems += _faults(split) + _mask_problems(split, num_classes, ignore_index)
    return problems + _in_two_splits(splits)


def find_notes(
    splits: Sequence[Split], num_classes: int, ignore_index: int, labels: Sequence[str] | None
) -> list[Finding]:
    """What may be right, and is worth a look."""
    notes = []
    for split in splits:
        notes += _twice(split) + _may_be_turned(split) + _poor_masks(split, ignore_index, labels)
    return notes + _absent(splits, num_classes, ignore_index, labels)


def _faults(split):
    faults = [fault for record in split.records for fault in record.faults]
    findings = []
    for kind in FAULTS:
        those = [fault for fault in faults if fault.kind == kind]
        where = tuple(fault.source for fault in those)
        if kind == "unreadable" and those:
            found = f"Every image and mask must be readable. Received: {len(those)} that are not."
            reasons = tuple(fault.reason for fault in those)
            findings.append(Finding(kind, split.name, found, (), where, reasons))
        elif those:
            found = those[0].reason
            if len(those) > 1:
                found += f" {len(those)} of {len(split.records)} pairs are like this."
            findings.append(Finding(kind, split.name, found, (), where))
    return findings


def _mask_problems(split, num_classes, ignore_index):
    """The first of the faults of mask values for which `check_masks` raises or warns."""
    masks = [record for record in split.records if len(record.values)]
    jpegs = tuple(record.mask for record in masks if record.is_jpeg)
    if outside_values(split.pixels, num_classes, ignore_index):
        share = len(jpegs) / len(masks)
        error = outside_error(split.pixels, num_classes, ignore_index, jpegs=share)
        where = tuple(
            record.mask for record in masks if outside_values(counts(record), num_classes, ignore_index)
        )
        return [Finding("outside", split.name, error.found, error.readings, where)]
    problems = []
    if jpegs:
        warning = jpeg_warning(jpegs, len(masks))
        problems.append(Finding("jpeg", split.name, warning.found, warning.readings, jpegs))
    if not masks:
        return problems
    too_few = too_few_classes(split.pixels, num_classes, ignore_index)
    present = [value for value in split.pixels if value != ignore_index]
    if too_few:
        kind, found, readings = too_few
        problems.append(Finding(kind, split.name, found, tuple(readings)))
    elif len(present) == 1 and num_classes > 1:
        found = (
            f"Masks must have two classes or more. Received: only {present[0]}, so that a model that "
            f"always predicts {present[0]} would be perfect."
        )
        problems.append(Finding("one class", split.name, found))
    return problems


def _same_images(splits):
    """Lists of (split, record) whose images have the same pixels."""
    same = defaultdict(list)
    for split in splits:
        for record in split.records:
            if record.digest:
                same[record.digest].append((split.name, record))
    return [those for those in same.values() if len(those) > 1]


def _in_two_splits(splits):
    shared = defaultdict(list)
    for those in _same_images(splits):
        names = tuple(dict.fromkeys(name for name, _ in those))
        if len(names) > 1:
            shared[names].append(" = ".join(record.image for _, record in those))
    return [
        Finding(
            "two splits",
            "",
            "An image must be in one split only: a score on images that were trained on means "
            f"nothing. Received: {len(where)} in {' and '.join(map(repr, names))}. "
            "Leave them out of one.",
            where=tuple(where),
        )
        for names, where in shared.items()
    ]


def _twice(split):
    where = [" = ".join(record.image for _, record in those) for those in _same_images([split])]
    return _noted("twice", split, "Images that occur more than once", where)


def _may_be_turned(split):
    where = [record.image for record in split.records if record.may_be_turned]
    found = "Images that EXIF turns and not their masks, where the sizes fit either way"
    remedy = " Look at one: was its mask drawn before the image was turned, or after?"
    return _noted("may be turned", split, found, where, remedy)


def _poor_masks(split, ignore_index, labels):
    """Masks in which there is little to learn."""
    ignored, single, nearly = [], [], []  # of the last two, (mask, class)
    for record in split.records:
        counted = {value: n for value, n in counts(record).items() if value != ignore_index}
        largest = max(counted, key=counted.get, default=None)
        if len(counted) == 1:
            single.append((record.mask, largest))
        elif not counted and len(record.values):
            ignored.append(record.mask)
        elif counted and counted[largest] >= NEARLY_ALL * sum(counted.values()):
            nearly.append((record.mask, largest))
    notes = _noted("only ignored", split, "Masks with only ignored pixels", ignored)
    for kind, found, those in [
        ("single class", "Masks of one class alone", single),
        ("nearly constant", f"Masks with one class in {NEARLY_ALL:.1%} of the pixels or more", nearly),
    ]:
        most = Counter(largest for _, largest in those).most_common(3)
        listed = ", ".join(f"{_named(value, labels)} in {n}" for value, n in most)
        notes += _noted(kind, split, found, [mask for mask, _ in those], f" Most often: {listed}.")
    return notes


def _noted(kind, split, found, where, more=""):
    """A note, if there is anything to name."""
    if not where:
        return []
    found = f"{found}: {len(where)} of {len(split.records)}.{more}"
    return [Finding(kind, split.name, found, where=tuple(where))]


def _absent(splits, num_classes, ignore_index, labels):
    """Classes that no mask has, and classes that only other splits have."""
    splits = [split for split in splits if split.pixels]
    values = set().union(*(split.pixels for split in splits))
    # Classes are missing because their pixels have other values: there is a problem about these.
    if not splits or any(is_outside(value, num_classes, ignore_index) for value in values):
        return []
    notes = []
    absent = [value for value in range(num_classes) if value not in values]
    if absent:
        notes.append(Finding("absent", "", absent_warning(absent, labels).found))
    for split in splits:
        lacking = [
            value for value in range(num_classes) if value in values and value not in split.pixels
        ]
        if lacking:
            found = f"No mask has {listed_classes(lacking, labels)}, which other splits have."
            notes.append(Finding("absent", split.name, found))
    return notes


def _named(value, labels):
    return f"{labels[value]!r} ({value})" if labels and 0 <= value < len(labels) else str(value)
