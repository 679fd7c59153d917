"""The tables against what the authors published."""

import dataclasses
import inspect
import pathlib
import re

import keras
import numpy as np
import pytest

from keras_encnet import EncNet, list_presets
from keras_encnet.inference.geometry import evaluation_rule
from keras_encnet.inference.segmenting import views_of
from keras_encnet.models.resnet import BACKBONES
from keras_encnet.zoo.table import (
    SHORT_NAMES,
    architecture,
    bibtex,
    find,
    find_backbone,
    imagenet_backbone,
    list_backbones,
    suggestion,
)

MMSEGMENTATION = "https://download.openmmlab.com/mmsegmentation/v0.5/encnet/"
THIRD_PARTY = "https://download.openmmlab.com/pretrain/third_party/"
WASABI = "https://s3.us-west-1.wasabisys.com/encoding/models/"

# Preset, config, folder, date, SHA-256, mIoU, with several scales and flip, GB in training, images/s.
OPENMMLAB = """
cityscapes_r50_512x1024_40k  encnet_r50-d8_4xb2-40k_cityscapes-512x1024  encnet_r50-d8_512x1024_40k_cityscapes  20200621_220958 68638a47 75.67 77.08 8.6 4.58
cityscapes_r101_512x1024_40k encnet_r101-d8_4xb2-40k_cityscapes-512x1024 encnet_r101-d8_512x1024_40k_cityscapes 20200621_220933 35e0a3e8 75.81 77.21 12.1 2.66
cityscapes_r50_769x769_40k   encnet_r50-d8_4xb2-40k_cityscapes-769x769   encnet_r50-d8_769x769_40k_cityscapes   20200621_220958 3bcd2884 76.24 77.85 9.8 1.82
cityscapes_r101_769x769_40k  encnet_r101-d8_4xb2-40k_cityscapes-769x769  encnet_r101-d8_769x769_40k_cityscapes  20200621_220933 2fafed55 74.25 76.25 13.7 1.26
cityscapes_r50_512x1024_80k  encnet_r50-d8_4xb2-80k_cityscapes-512x1024  encnet_r50-d8_512x1024_80k_cityscapes  20200622_003554 fc5c5624 77.94 79.13 - -
cityscapes_r101_512x1024_80k encnet_r101-d8_4xb2-80k_cityscapes-512x1024 encnet_r101-d8_512x1024_80k_cityscapes 20200622_003555 1de64bec 78.55 79.47 - -
cityscapes_r50_769x769_80k   encnet_r50-d8_4xb2-80k_cityscapes-769x769   encnet_r50-d8_769x769_80k_cityscapes   20200622_003554 55096dcb 77.44 78.72 - -
cityscapes_r101_769x769_80k  encnet_r101-d8_4xb2-80k_cityscapes-769x769  encnet_r101-d8_769x769_80k_cityscapes  20200622_003555 470ef79d 76.10 76.97 - -
ade20k_r50_512x512_80k       encnet_r50-d8_4xb4-80k_ade20k-512x512       encnet_r50-d8_512x512_80k_ade20k       20200622_042412 44b46b04 39.53 41.17 10.1 22.81
ade20k_r101_512x512_80k      encnet_r101-d8_4xb4-80k_ade20k-512x512      encnet_r101-d8_512x512_80k_ade20k      20200622_101128 dd35e237 42.11 43.61 13.6 14.87
ade20k_r50_512x512_160k      encnet_r50-d8_4xb4-160k_ade20k-512x512      encnet_r50-d8_512x512_160k_ade20k      20200622_101059 b2db95e0 40.10 41.71 - -
ade20k_r101_512x512_160k     encnet_r101-d8_4xb4-160k_ade20k-512x512     encnet_r101-d8_512x512_160k_ade20k     20200622_073348 7989641f 42.61 44.01 - -
"""  # noqa: E501

# Preset, file, SHA-1, pixel accuracy, mIoU, base and crop size.
ENCODING = """
ade20k_r50s          encnet_resnet50s_ade       07ac287cd77e53ea583f37454e17d30ce1509a4a 80.1 41.5 520 480
ade20k_r101s         encnet_resnet101s_ade      3f54fa3b67bac7619cd9b3673f5c8227cf8f4718 81.3 44.4 640 576
pascal_context_r50s  encnet_resnet50s_pcontext  4de91d5922d4d3264f678b663f874da72e82db00 79.2 51.0 520 480
pascal_context_r101s encnet_resnet101s_pcontext 9f27ea13d514d7010e59988341bcbd4140fcc33d 80.7 54.1 520 480
"""  # noqa: E501

PRESETS = {preset.name: preset for preset in list_presets()}
NAMES = list(PRESETS)


def rows(text):
    return [line.split() for line in text.strip().splitlines()]


def number(text):
    return None if text == "-" else float(text)


@pytest.mark.parametrize("row", rows(OPENMMLAB), ids=lambda row: row[0])
def test_openmmlabs_models_are_as_published(row):
    name, config, folder, date, sha, *figures = row
    preset = PRESETS[name]
    assert preset.source == f"mmsegmentation: {config}"
    assert preset.release == {
        "url": f"{MMSEGMENTATION}{folder}/{folder}_{date}-{sha}.pth",
        "format": "mmsegmentation",
        "sha256": sha,
    }
    measured = (preset.miou, preset.miou_ms_flip, preset.train_gb, preset.v100_fps)
    assert measured == tuple(map(number, figures))
    assert preset.backbone == ("resnet101" if "r101-d8" in config else "resnet50")
    assert preset.recipe["steps"] == 1000 * int(re.search(r"-(\d+)k_", config)[1])
    assert preset.recipe["batch_size"] == 4 * int(re.search(r"4xb(\d)", config)[1])
    assert preset.recipe["size"] == [int(n) for n in config.rsplit("-", 1)[1].split("x")]
    assert preset.laterals is False
    assert preset.align_corners is ("769x769" in config)
    assert preset.licence == "Apache-2.0"


@pytest.mark.parametrize("row", rows(ENCODING), ids=lambda row: row[0])
def test_pytorch_encodings_models_are_as_published(row):
    name, file, sha1, accuracy, miou, base, crop = row
    preset = PRESETS[name]
    assert preset.source == f"PyTorch-Encoding: {file}"
    assert preset.release == {
        "url": f"{WASABI}{file}-{sha1[:8]}.zip",
        "format": "pytorch_encoding",
        "sha1": sha1,
        "member": f"{file}-{sha1[:8]}.pth",
    }
    assert (preset.pixel_accuracy, preset.miou_ms_flip, preset.miou) == (
        float(accuracy), float(miou), None,
    )  # fmt: skip
    assert preset.backbone == file.split("_")[1]
    assert preset.laterals is ("pcontext" in file)
    assert preset.align_corners is True
    assert preset.evaluation == {
        "protocol": "pytorch-encoding",
        "resize": int(base),
        "window": int(crop),
        "stride": int(int(crop) * 2 / 3),
    }
    assert preset.recipe["epochs"] == (80 if "pcontext" in file else 120)
    assert preset.recipe["learning_rate"] == (0.001 if "pcontext" in file else 0.01)
    assert preset.licence == "MIT"


def test_there_are_sixteen_models():
    assert NAMES == [row[0] for row in rows(OPENMMLAB) + rows(ENCODING)]
    assert len(set(NAMES)) == 16
    assert set(SHORT_NAMES.values()) < set(NAMES)
    assert not set(SHORT_NAMES) & set(NAMES)


def test_record_shows_and_compares_its_first_seven_fields():
    preset = PRESETS["ade20k_r50_512x512_160k"]
    assert repr(preset) == (
        "Preset(name='ade20k_r50_512x512_160k', dataset='ADE20K', backbone='resnet50', "
        "num_classes=150, miou=40.1, miou_ms_flip=41.71, "
        "source='mmsegmentation: encnet_r50-d8_4xb4-160k_ade20k-512x512')"
    )
    assert preset == dataclasses.replace(preset) and hash(preset)
    assert len(str(list_presets()).splitlines()) == 17


@pytest.mark.parametrize("name", NAMES)
def test_encnet_takes_the_architecture(name):
    arguments = architecture(PRESETS[name])
    parameters = inspect.signature(EncNet.__init__).parameters
    assert set(arguments) < set(parameters)
    assert {p for p, v in parameters.items() if v.default is v.empty} <= {"self", *arguments}
    assert arguments["backbone"] in BACKBONES
    assert len(arguments["labels"]) == len(set(arguments["labels"])) == arguments["num_classes"]
    assert arguments["palette"].dtype == np.uint8
    assert arguments["palette"].shape == (arguments["num_classes"], 3)


def test_callers_cannot_change_the_table():
    find("cityscapes_r50").palette[0] = 7
    preset = find("cityscapes_r50")
    architecture(preset)["evaluation"]["resize"][0] = 7
    architecture(preset)["palette"][0] = 7
    assert preset.evaluation == find("cityscapes_r50").evaluation == {"resize": [2048, 1024]}
    assert preset.palette[0].tolist() == [128, 64, 128]


def test_small_network_of_the_architecture():
    arguments = architecture(find("pascal_context_r50s"))
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 8, strides=8, padding="same")(pixels)
    arguments["backbone"] = keras.Model(pixels, [features, features, features])
    model = EncNet(**arguments, head_channels=8, num_codes=4)
    assert model.labels[-1] == "wood" and model.laterals and model.align_corners
    assert model.get_config()["evaluation"] == arguments["evaluation"]


def views(name, size, ratios=(1.0,), protocol=None, flip=False):
    """Size, first rows and columns of the windows, and their size, for each view of an image."""
    rule = evaluation_rule(PRESETS[name].evaluation, ratios=tuple(ratios), protocol=protocol)
    for axes in views_of(size, rule, tuple(ratios)):
        starts = ([int(axis.start(i)) for i in range(axis.count)] for axis in axes)
        yield tuple(axis.view for axis in axes), *starts, tuple(axis.length for axis in axes)


def test_evaluation_is_that_of_the_authors():
    ((size, tops, lefts, window),) = views("cityscapes_r50_769x769_80k", (1024, 2048))
    assert size == (1025, 2049)
    assert (tops, lefts, window) == ([0, 256], [0, 513, 1026, 1280], (769, 769))
    ((size, _, _, window),) = views("cityscapes_r101_512x1024_80k", (1024, 2048))
    assert (size, window) == ((1024, 2048), (1024, 2048))
    ((size, *_),) = views("ade20k_r101_512x512_160k", (256, 300))
    assert size == (512, 600)
    ((size, tops, lefts, _),) = views("ade20k_r101s", (300, 400))
    assert (size, tops, lefts) == ((480, 640), [0], [0, 384])


def test_multi_scale_evaluation_is_that_of_the_authors():
    ratios = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    for preset in PRESETS.values():
        protocol = "mmsegmentation-0.x" if preset.source.startswith("mmseg") else "pytorch-encoding"
        assert preset.multi_scale == {"protocol": protocol, "ratios": ratios, "flip": True}
    name = "ade20k_r50_512x512_160k"
    sizes = [size for size, *_ in views(name, (512, 683), **PRESETS[name].multi_scale)]
    assert [min(size) for size in sizes] == [256, 384, 512, 640, 768, 896]


def test_class_names_and_colours():
    by_dataset = {preset.dataset: preset for preset in PRESETS.values()}
    counts = {name: preset.num_classes for name, preset in by_dataset.items()}
    assert counts == {"ADE20K": 150, "Cityscapes": 19, "PASCAL-Context": 59}
    colours = {
        name: dict(zip(preset.labels, map(tuple, preset.palette.tolist()), strict=True))
        for name, preset in by_dataset.items()
    }
    # The first, some, and the last of each.
    assert list(colours["ADE20K"].items())[::149] == [
        ("wall", (120, 120, 120)),
        ("flag", (92, 0, 255)),
    ]
    assert by_dataset["ADE20K"].labels.index("person") == 12
    assert by_dataset["ADE20K"].labels.index("traffic light") == 136
    assert list(colours["Cityscapes"].items())[::6] == [
        ("road", (128, 64, 128)),
        ("traffic light", (250, 170, 30)),
        ("rider", (255, 0, 0)),
        ("bicycle", (119, 11, 32)),
    ]
    assert list(by_dataset["PASCAL-Context"].labels) == sorted(by_dataset["PASCAL-Context"].labels)
    assert colours["PASCAL-Context"]["aeroplane"] == (180, 120, 120)
    assert all(name == name.strip() for table in colours.values() for name in table)


def test_terms_and_citations():
    for preset in PRESETS.values():
        assert "https://" in preset.terms and preset.home.startswith("https://github.com/")
        assert preset.citation.startswith("@InProceedings{Zhang_2018_CVPR,")
        assert preset.hub is None or set(preset.hub) == {"repo", "revision", "sha256"}


def test_citation_is_the_same_everywhere():
    readme = pathlib.Path(__file__).parents[2] / "README.md"
    assert f"```bibtex\n{bibtex()}\n```" in readme.read_text("utf-8")
    assert {preset.citation for preset in PRESETS.values()} == {bibtex()}


@pytest.mark.parametrize(
    "given, expected",
    [
        ("ade20k_r101_512x512_160k", "ade20k_r101_512x512_160k"),
        ("ade20k_r101", "ade20k_r101_512x512_160k"),
        ("ADE20K_R101", "ade20k_r101_512x512_160k"),
        ("ade20k-r101", "ade20k_r101_512x512_160k"),
        (" ADE20K  R-101 ", "ade20k_r101_512x512_160k"),
        ("Cityscapes R50", "cityscapes_r50_512x1024_80k"),
        ("PASCAL-Context-R50s", "pascal_context_r50s"),
        ("ade20k_r101s", "ade20k_r101s"),
        ("encnet_r50-d8_4xb2-80k_cityscapes-769x769", "cityscapes_r50_769x769_80k"),
        ("encnet_resnet101s_pcontext", "pascal_context_r101s"),
    ],
)
def test_spellings_of_names(given, expected):
    assert find(given).name == expected


@pytest.mark.parametrize("name", ["ade20k", "ade20k_r102", "", "hf://ade20k_r101", "./ade20k_r101"])
def test_unknown_names(name):
    assert find(name) is None


@pytest.mark.parametrize(
    "given, expected",
    [
        ("ade20k_r102", "ade20k_r101"),
        ("ade_r101", "ade20k_r101"),
        ("cityscape_r50", "cityscapes_r50"),
        ("pascal-r101s", "pascal_context_r101s"),
    ],
)
def test_similar_names_are_suggested(given, expected):
    assert suggestion(given) == f" Did you mean {expected!r}?"


def test_other_names_are_not_suggested():
    assert suggestion("zzz") == ""
    assert suggestion("resnet50x", [b.name for b in list_backbones()]).startswith(
        " Did you mean 'resnet50"
    )


@pytest.mark.parametrize(
    "architecture, url, check",
    [
        ("resnet18", f"{THIRD_PARTY}resnet18_v1c-b5776b93.pth", "b5776b93"),
        ("resnet50", f"{THIRD_PARTY}resnet50_v1c-2cccc1ad.pth", "2cccc1ad"),
        ("resnet101", f"{THIRD_PARTY}resnet101_v1c-e67eebb6.pth", "e67eebb6"),
        ("resnet50s", f"{WASABI}resnet50s-a75c83cf.zip", "a75c83cfc89a56a4e8ba71b14f1ec67e923787b3"),
        ("resnet101s", f"{WASABI}resnet101s-03a0f310.zip", "03a0f310d6447880f1b22a83bd7d1aa7fc702c6e"),
        ("resnet152s", f"{WASABI}resnet152s-36670e8b.zip", "36670e8bc2428ecd5b7db1578538e2dd23872813"),
    ],
)  # fmt: skip
def test_imagenet_backbones(architecture, url, check):
    backbone = imagenet_backbone(architecture)
    assert backbone.architecture == architecture
    assert backbone.release["url"] == url
    assert backbone.release.get("sha256", backbone.release.get("sha1")) == check
    assert find_backbone(backbone.name.upper()) == find_backbone(architecture) == backbone
    if "member" in backbone.release:
        assert backbone.release["member"] == url.rsplit("/")[-1].replace(".zip", ".pth")


def test_backbones_without_a_release():
    assert imagenet_backbone("resnet34") is imagenet_backbone("resnet50_v1") is None
    hub = {b.architecture: b.hub["repo"] for b in list_backbones() if b.hub}
    assert hub == {
        **{f"resnet{depth}": f"timm/resnet{depth}c.gluon_in1k" for depth in (50, 101, 152)},
        **{f"resnet{depth}s": f"timm/resnet{depth}s.gluon_in1k" for depth in (50, 101, 152)},
    }
    names = [backbone.name for backbone in list_backbones()]
    assert len(names) == len(set(names)) == 12
    assert {backbone.architecture for backbone in list_backbones()} < set(BACKBONES)
    assert find_backbone("timm") is None
