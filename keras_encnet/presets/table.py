import dataclasses
import difflib
import json
import pathlib

# What the bare name of a kind of model means: its best one.
SHORT_NAMES = {
    "ade20k_r50": "ade20k_r50_512x512_160k",
    "ade20k_r101": "ade20k_r101_512x512_160k",
    "cityscapes_r50": "cityscapes_r50_512x1024_80k",
    "cityscapes_r101": "cityscapes_r101_512x1024_80k",
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published model: what it was trained on, and what its authors measured (mIoU in percent)."""

    name: str
    dataset: str
    backbone: str
    num_classes: int
    miou: float | None
    miou_ms_flip: float | None
    source: str


class PresetTable(list):
    """A list of `Preset`s that prints as a table."""

    def __str__(self):
        names = [field.name for field in dataclasses.fields(Preset)]
        rows = [names] + [
            ["" if value is None else str(value) for value in dataclasses.astuple(preset)]
            for preset in self
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join(lines)

    __repr__ = __str__


def list_presets():
    """The published EncNets, one record each.

    >>> keras_encnet.list_presets()[0].name
    'cityscapes_r50_512x1024_40k'
    """
    path = pathlib.Path(__file__).with_name("models.json")
    return PresetTable(Preset(**row) for row in json.loads(path.read_text("utf-8")))


def suggestion(name):
    """`" Did you mean 'ade20k_r101'?"`, or nothing where no known name is near."""
    known = [*SHORT_NAMES, *(preset.name for preset in list_presets())]
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
