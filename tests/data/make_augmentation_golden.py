"""Writes `augmentation_golden.npz`: images as the originals augment them, and the numbers they drew.

    python tests/data/make_augmentation_golden.py BASE

runs in the environment of `tests/golden/make.py`. BASE is `encoding/datasets/base.py` of
PyTorch-Encoding 0.5.0, which drew the short side and blurred; the installed version draws the long
side.
"""

import contextlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np

SIZE = (48, 64)  # of the crops
RESIZE, SCALE = (256, 80), (0.5, 2.0)
BASE_SIZE, CROP = 60, 48
# Which colours mmsegmentation's cases change, and whether contrast comes first.
COLOURS = [
    ((), True),
    (("brightness",), True),
    (("contrast",), False),
    (("brightness", "contrast"), True),
    (("saturation",), True),
    (("hue",), True),
    (("saturation", "hue"), False),
    (("brightness", "contrast", "saturation", "hue"), True),
    (("brightness", "contrast", "saturation", "hue"), False),
    (("contrast", "hue"), False),
]
RANGES = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5)}


def drawn_image(rng, height, width):
    """A smooth picture with edges, and its mask of four classes and ignored pixels."""
    y, x = np.mgrid[:height, :width] / (height, width)[0]
    image = np.stack([255 * x, 255 * y, 128 + 120 * np.sin(9 * x * y)], axis=-1)
    mask = (2 * (y > 0.5) + (x > 0.7)).astype("uint8")
    for label in range(4):
        top, left = rng.integers(height - 20), rng.integers(width - 20)
        image[top : top + 20, left : left + 20] = rng.integers(0, 256, 3)
        mask[top : top + 20, left : left + 20] = label
    mask[:8, :8] = 255
    image += rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype("uint8"), mask


# === mmsegmentation ===


def mmsegmentation(rng, image, mask, colours, contrast_first):
    """What its pipeline makes of an image, and the numbers, in the order of ours."""
    from mmcv.transforms import RandomFlip, RandomResize
    from mmseg.datasets.transforms import PhotoMetricDistortion, RandomCrop, Resize  # noqa: F401

    data = {"img": image[..., ::-1].copy(), "img_shape": mask.shape, "gt_seg_map": mask.copy()}
    data["seg_fields"] = ["gt_seg_map"]
    part, crops, flip = rng.random(), [], bool(rng.random() < 0.5)
    with drawing(random_sample=lambda: part):
        resize = RandomResize(RESIZE, SCALE, resize_type="mmseg.Resize", keep_ratio=True)
        data = resize(data)

    def place(low, high):
        crops.append(int(rng.integers(low, high)))
        return crops[-1]

    with drawing(randint=place):
        data = RandomCrop(SIZE, cat_max_ratio=0.75)(data)
    with drawing(choice=lambda names, p: "horizontal" if flip else None):
        data = RandomFlip(prob=0.5, direction="horizontal")(data)
    amounts = {name: float(rng.uniform(*RANGES[name])) for name in colours if name != "hue"}
    if "hue" in colours:
        amounts["hue"] = int(rng.integers(-18, 18))
    with drawing(**distortion(amounts, contrast_first)):
        data = PhotoMetricDistortion()(data)
    numbers = [part * (SCALE[1] - SCALE[0]) + SCALE[0], *crops, *chance(flip)]
    numbers += switched(amounts, "brightness") + chance(contrast_first)
    for name in ("contrast", "saturation", "hue"):
        numbers += switched(amounts, name)
    return data["img"][..., ::-1], data["gt_seg_map"], numbers


def distortion(amounts, contrast_first):
    """The functions of `numpy.random` that `PhotoMetricDistortion` calls, in its order."""
    names = ["saturation", "hue"]
    names = ["contrast", *names] if contrast_first else [*names, "contrast"]
    draws = [int("brightness" in amounts)]
    draws += [amounts["brightness"]] if draws[0] else []
    draws += [int(contrast_first)]
    for name in names:
        draws += [1, amounts[name]] if name in amounts else [0]
    draws = iter(draws)
    return {"randint": lambda *limits: next(draws), "uniform": lambda low, high: next(draws)}


def chance(happens):
    """A number from 0 to 1 that is below the probability 1/2 if something is to happen."""
    return [0.1 if happens else 0.9]


def switched(amounts, name):
    return [*chance(name in amounts), *([amounts[name]] if name in amounts else [])]


@contextlib.contextmanager
def drawing(**functions):
    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch.object(np.random, name, function))
        yield


# === PyTorch-Encoding ===


def pytorch_encoding(module, side, rng, image, mask, flip, blur):
    """What its `_sync_transform` makes of an image, and the numbers, in the order of ours."""
    from PIL import Image

    drawn = []

    def randint(low, high):
        drawn.append(int(rng.integers(low, high + 1)))
        return drawn[-1]

    radius = float(rng.random())
    probabilities = iter([*chance(flip), *chance(blur), radius])
    dataset = types.SimpleNamespace(
        base_size=BASE_SIZE, crop_size=CROP, _mask_transform=lambda mask: np.array(mask)
    )
    module.random = types.SimpleNamespace(random=lambda: next(probabilities), randint=randint)
    done = module.BaseDataset._sync_transform(dataset, Image.fromarray(image), Image.fromarray(mask))
    length, left, top = drawn
    if flip:  # it flips before it crops
        factor = length / (min if side == "short" else max)(mask.shape)
        width = int(mask.shape[1] * factor + (0.5 if side == "long" else 0))
        left = max(width - CROP, 0) - left
    numbers = [length, top, left, *chance(flip)]
    if side == "short":  # the newer version does not blur
        numbers += [*chance(blur), *([radius] if blur else [])]
    return np.array(done[0]), done[1], numbers


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(base):
    sys.modules["mmcv._ext"] = mock.MagicMock()
    from mmseg.registry import TRANSFORMS
    from mmseg.utils import register_all_modules

    register_all_modules()
    assert TRANSFORMS.get("mmseg.Resize")
    rng = np.random.default_rng(0)
    arrays, cases = {}, []

    def add(kind, source, result, **options):
        image, mask, numbers = result
        i = len(cases)
        cases.append({"kind": kind, "source": source, "numbers": numbers, **options})
        arrays[f"image{i}"], arrays[f"mask{i}"] = image, mask

    sources = [drawn_image(rng, 90, 120), drawn_image(rng, 100, 75)]
    for i, (image, mask) in enumerate(sources):
        arrays[f"source_image{i}"], arrays[f"source_mask{i}"] = image, mask
    for k, (colours, contrast_first) in enumerate(COLOURS):
        result = mmsegmentation(rng, *sources[k % 2], colours, contrast_first)
        add("mmsegmentation", k % 2, result, colours=colours)
    installed = Path(importlib.util.find_spec("encoding").submodule_search_locations[0])
    modules = {"short": load("old", base), "long": load("new", installed / "datasets" / "base.py")}
    for side, module in modules.items():
        for k in range(6):
            flip, blur = k % 2 == 1, side == "short" and k % 3 > 0
            image, mask = sources[k // 3]
            # In the masks that it reads, 0 is what is ignored, and the padding.
            image, mask, numbers = pytorch_encoding(module, side, rng, image, mask + 1, flip, blur)
            add("PyTorch-Encoding", k // 3, (image, mask - 1, numbers), side=side)
    arrays["cases"] = json.dumps(cases)
    np.savez_compressed(Path(__file__).with_name("augmentation_golden.npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
