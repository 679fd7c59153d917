"""The published models and backbones, read from the JSON files in this folder.

- `models.json`: the sixteen EncNets. Entries under `code_bases`, `recipes`, `multi_scale` and `kinds`
  (data set and crop) are shared by several models.
- `backbones.json`: weights trained on ImageNet.

Class names, colours and terms come from `data/datasets.json`.
"""

import copy
import dataclasses
import difflib
import functools
import json
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from keras_encnet.data.datasets import list_datasets

# Each short name stands for the best model of its kind.
SHORT_NAMES = {
    "ade20k_r50": "ade20k_r50_512x512_160k",
    "ade20k_r101": "ade20k_r101_512x512_160k",
    "cityscapes_r50": "cityscapes_r50_512x1024_80k",
    "cityscapes_r101": "cityscapes_r101_512x1024_80k",
}

COLUMNS = (
    "name",
    "short_name",
    "dataset",
    "backbone",
    "num_classes",
    "miou",
    "miou_ms_flip",
    "size_mb",
    "source",
)

# Neither in the `repr` of a record nor compared: the first seven fields identify it.
_detail = functools.partial(dataclasses.field, default=None, repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published model: its data set, and the results that its authors published (mIoU in percent).

    The fields after the first seven:

    - `short_name`: another name by which `from_preset` loads it, such as `"ade20k_r101"`, or `None`.
    - `size_mb`: how much `from_preset` downloads, in MB, as computed from the network's parameters.
    - `labels`, a tuple of class names; `palette`, `uint8` `(num_classes, 3)`; `laterals`,
      `align_corners`, `evaluation`: arguments of `EncNet`.
    - `multi_scale`: the options of `model.segment` that give `miou_ms_flip`.
    - `licence`: of the code base that released the weights; `terms`: of the data set; `citation`: a
      BibTeX entry.
    - `pixel_accuracy` in percent, with several scales and flip.
    - `release`: `url`, `format` (`"mmsegmentation"` or `"pytorch_encoding"`), and either `sha256`,
      the first digits of the file's checksum, or `sha1`, the checksum of `member` in the zip.
    - `hub`: `repo`, `revision` (a commit) and `sha256` (of `model.weights.h5`) of the converted
      weights on the Hugging Face Hub, or `None` if there are none.
    - `recipe`: how it was trained, as fields of `keras_encnet.training.Recipe`.
    - For model cards: `train_gb`, GPU memory in training; `v100_fps`, images per second on a V100;
      `home`, the code base's address.
    """

    name: str
    dataset: str
    backbone: str
    num_classes: int
    miou: float | None
    miou_ms_flip: float | None
    source: str
    short_name: str | None = _detail()
    size_mb: int | None = _detail()
    labels: tuple = _detail()
    palette: np.ndarray = _detail()
    laterals: bool = _detail()
    align_corners: bool = _detail()
    evaluation: dict = _detail()
    multi_scale: dict = _detail()
    recipe: dict = _detail()
    licence: str = _detail()
    terms: str = _detail()
    citation: str = _detail()
    home: str = _detail()
    pixel_accuracy: float | None = _detail()
    train_gb: float | None = _detail()
    v100_fps: float | None = _detail()
    release: dict = _detail()
    hub: dict | None = _detail()


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Weights of a ResNet trained on ImageNet.

    `architecture` is its name in `EncNet`. `size_mb` and `release` are as in `Preset`; if `release` is
    `None`, `hub` holds `repo` and `file` on the Hugging Face Hub and, where they are known, `revision`
    (a commit) and `sha256`.
    """

    name: str
    architecture: str
    source: str
    licence: str
    size_mb: int | None = _detail()
    release: dict | None = _detail()
    hub: dict | None = _detail()


class PresetTable(list):
    """A list of `Preset`s that prints as a table."""

    def __str__(self):
        rows = [COLUMNS] + [[_text(getattr(preset, name)) for name in COLUMNS] for preset in self]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join(lines)

    __repr__ = __str__


def list_presets() -> PresetTable:
    """The published EncNets, one `Preset` each.

    >>> keras_encnet.list_presets()[0].name
    'cityscapes_r50_512x1024_40k'
    """
    table = _read("models.json")
    return PresetTable(_preset(row, table) for row in table["models"])


def list_backbones() -> list[Backbone]:
    """The ImageNet weights from which an EncNet can start, one `Backbone` each."""
    return [Backbone(**row) for row in _read("backbones.json")]


def bibtex() -> str:
    """The BibTeX entry of EncNet's paper.

    >>> print(bibtex())
    @InProceedings{Zhang_2018_CVPR,
    ...
    """
    return "\n".join(_read("models.json")["citations"]["Zhang_2018_CVPR"])


def find(name: str | os.PathLike) -> Preset | None:
    """The `Preset` called `name`, or `None`.

    Case, hyphens, underscores and spaces are ignored. Short names and the original code bases' names
    work too.

    >>> find("ADE20K-R101").name
    'ade20k_r101_512x512_160k'
    >>> find("encnet_resnet50s_ade").name
    'ade20k_r50s'
    """
    presets = list_presets()
    known = {_key(preset.source.split(": ")[1]): preset for preset in presets}
    known |= {_key(preset.name): preset for preset in presets}
    known |= {_key(short): known[_key(name)] for short, name in SHORT_NAMES.items()}
    return known.get(_key(name))


def find_backbone(name: str) -> Backbone | None:
    """The `Backbone` called `name`, or the one for the architecture `name`, or `None`.

    >>> find_backbone("resnet50").name
    'resnet50_v1c_imagenet'
    """
    known = {_key(backbone.name): backbone for backbone in list_backbones()}
    return known.get(_key(name)) or imagenet_backbone(name)


def imagenet_backbone(architecture: str | None) -> Backbone | None:
    """The `Backbone` that `backbone_weights="imagenet"` selects, or `None`.

    It is the one that the architecture's own code base trained from, or else timm's.
    """
    fitting = [b for b in list_backbones() if _key(b.architecture) == _key(architecture)]
    return min(fitting, key=lambda backbone: backbone.release is None, default=None)


def suggestion(name: str, known: Sequence[str] | None = None) -> str:
    """A question such as `" Did you mean 'ade20k_r101'?"`, or `""` if no name is similar.

    Args:
        name: the unknown name.
        known: the names to choose from; default: those of the presets.
    """
    known = known or [*SHORT_NAMES, *(preset.name for preset in list_presets())]
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def find_release(file_name: str) -> Preset | None:
    """The `Preset` that was released in a file of this name (without its suffix), or `None`.

    >>> find_release("encnet_r50-d8_512x512_160k_ade20k_20200622_101059-b2db95e0").name
    'ade20k_r50_512x512_160k'
    """
    released = {pathlib.PurePosixPath(p.release["url"]).stem: p for p in list_presets()}
    return released.get(file_name)


def architecture(preset: Preset) -> dict:
    """The keyword arguments of `EncNet` for the architecture of `preset`.

    >>> architecture(find("ade20k_r50s"))["evaluation"]
    {'protocol': 'pytorch-encoding', 'resize': 520, 'window': 480, 'stride': 320}
    """
    return {"backbone": preset.backbone, "laterals": preset.laterals, **release_settings(preset)}


def release_settings(preset: Preset) -> dict:
    """The arguments of `EncNet` that a released file does not contain."""
    names = ("num_classes", "labels", "palette", "align_corners", "evaluation")
    return {name: copy.deepcopy(getattr(preset, name)) for name in names}


def _preset(row, table):
    kind = table["kinds"][row["kind"]]
    code_base = table["code_bases"][kind["code_base"]]
    dataset = list_datasets()[kind["dataset"]]
    checks = {key: row[key] for key in ("sha256", "sha1", "member") if key in row}
    return Preset(
        name=row["name"],
        dataset=kind["dataset"],
        backbone=row["backbone"],
        num_classes=len(dataset.labels),
        miou=row["miou"],
        miou_ms_flip=row["miou_ms_flip"],
        source=f"{kind['code_base']}: {row['original']}",
        short_name=next((short for short, name in SHORT_NAMES.items() if name == row["name"]), None),
        size_mb=row["size_mb"],
        labels=dataset.labels,
        palette=dataset.palette.copy(),  # `list_datasets` is cached
        laterals=kind["laterals"],
        align_corners=kind["align_corners"],
        evaluation=kind["evaluation"],
        multi_scale=table["multi_scale"][kind["code_base"]],
        recipe=table["recipes"][kind["code_base"]] | kind["training"] | row.get("training", {}),
        licence=code_base["licence"],
        terms=dataset.terms,
        citation="\n".join(table["citations"][code_base["citation"]]),
        home=code_base["home"],
        pixel_accuracy=row.get("pixel_accuracy"),
        train_gb=row.get("train_gb"),
        v100_fps=row.get("v100_fps"),
        release={
            "url": code_base["releases"] + row["file"],
            "format": code_base["format"],
            **checks,
        },
        hub=row["hub"],
    )


def _read(file):
    return json.loads(pathlib.Path(__file__).with_name(file).read_text("utf-8"))


def _key(name):
    return re.sub(r"[\s_-]+", "", str(name)).lower()


def _text(value):
    return "" if value is None else str(value)
