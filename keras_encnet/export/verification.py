"""Whether an exported file gives what the model gives, how large it is, and how fast."""

import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_encnet.data.images import read_image, resize_image
from keras_encnet.demo.drawing import scenes
from keras_encnet.export.runtimes import open_export

SIZES = ((512, 512), (97, 131))
NAMES = {"": "SavedModel", ".onnx": "ONNX Runtime", ".tflite": "LiteRT", ".xml": "OpenVINO"}


class Verification(NamedTuple):
    """What `verify` found; prints as a table.

    `differences` holds the largest difference of each numeric output, for `logits` relative to the
    largest logit. `labels` is the share of pixels with the same label, or `None` without that output.
    Sizes are in bytes, times in seconds per call."""

    runtime: str
    images: int
    differences: dict
    labels: float | None
    model_size: int
    size: int
    model_seconds: float
    seconds: float

    def __str__(self):
        lines = [f"{self.runtime} compared with the model in float32, {self.images} images:"]
        if self.labels is not None:
            lines.append(f"  the same label: {self.labels:.4%} of the pixels")
        for name, value in self.differences.items():
            lines.append(f"  largest difference of {name}: {value:.1e}")
        lines.append(f"  size: {self.size / 1e6:.1f} MB; weights: {self.model_size / 1e6:.1f} MB")
        lines.append(f"  time: {self.seconds:.3f} s; model: {self.model_seconds:.3f} s")
        return "\n".join(lines)


def verify(
    model,
    path: str | os.PathLike,
    images: Sequence | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    runs: int = 3,
) -> Verification:
    """Runs a model and a file that was exported from it on the same images, and compares.

    Args:
        model: the `EncNet`; if its dtype policy is not float32, a float32 copy is compared.
        path: what `model.export` wrote.
        images: paths, PIL images or arrays to compare on; default: drawn street scenes.
        image_size: `(height, width)`, if the file takes only images of that size.
        batch_size: number of images, if the file takes only that many at a time.
        runs: how often the time of the first image is measured; medians are reported.

    Raises:
        ValueError: if there are no images or runs, or the file was exported from another model.
    """
    if runs < 1:
        raise ValueError(f"`runs` must be 1 or more. Received: {runs!r}")
    path = pathlib.Path(path)
    run, model = open_export(path), _in_float32(model)
    if images is None:
        sizes = [image_size] if image_size else SIZES
        images = [scenes(1, size=tuple(size), seed=0)[0][0] for size in sizes]
    images = [read_image(image) for image in images]
    if not images:
        raise ValueError(
            "`images` must hold one or more images, or be None for drawn street scenes. Received: none"
        )
    if image_size:
        images = [resize_image(image, *image_size) for image in images]

    same, differences, times = [], {}, []
    for i, image in enumerate(images):
        batch = np.repeat(image[None], batch_size or 1, axis=0)
        found = run(batch)
        for name, value in _wanted(model, image, found).items():
            shape = None if value is None else value.shape
            if found[name][0].shape != shape:
                raise ValueError(
                    f"{path} must give the same shapes as the model. Received: {name!r} of shape "
                    f"{found[name][0].shape}, where the model gives {shape}. Was it exported from this "
                    "model?"
                )
            if name == "labels":
                same.append((found[name][0] == value).mean())
            else:
                scale = abs(value).max() if name == "logits" else 1
                differences[name] = max(
                    differences.get(name, 0), float(abs(found[name][0] - value).max() / scale)
                )
        for _ in range(runs if i == 0 else 0):
            times.append([_seconds(model.segment, image), _seconds(run, batch)])
    seconds = np.median(times, axis=0)
    return Verification(
        NAMES["" if path.is_dir() else path.suffix],
        len(images),
        differences,
        float(np.mean(same)) if same else None,
        4 * model.count_params(),
        _size(path),
        float(seconds[0]),
        float(seconds[1]),
    )


def _wanted(model, image, found):
    """What the model gives for those outputs that the file has."""
    wanted = {}
    if {"labels", "presence"} & set(found):
        result = model.segment(image)
        wanted |= {"labels": result.label_map, "presence": result.presence}
    if {"logits", "probabilities"} & set(found):
        logits = model.predict_on_batch(image[None])[0]
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        wanted |= {"logits": logits, "probabilities": odds / odds.sum(-1, keepdims=True)}
    return {name: wanted[name] for name in found}


def _in_float32(model):
    if model.dtype_policy.name == "float32":
        return model
    copy = type(model).from_config({**model.get_config(), "dtype": "float32"})
    copy.set_weights(model.get_weights())
    return copy


def _seconds(call, images):
    start = time.perf_counter()
    call(images)
    return time.perf_counter() - start


def _size(path):
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    beside = path.with_suffix(".bin")
    weights = beside.stat().st_size if path.suffix == ".xml" and beside.exists() else 0
    return path.stat().st_size + weights
