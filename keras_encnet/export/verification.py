"""Compares an exported file with its model: results, size and speed."""

import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_encnet.data.images import read_image, resize_image
from keras_encnet.demo.drawing import scenes
from keras_encnet.export.runtimes import open_export

SIZES = ((512, 512), (97, 131))
RUNTIMES = {"": "SavedModel", ".onnx": "ONNX Runtime", ".tflite": "LiteRT", ".xml": "OpenVINO"}


class Verification(NamedTuple):
    """The result of `verify`; prints as a table.

    `differences` holds the largest difference of each numeric output, for `logits` relative to the
    largest logit. `labels` is the fraction of pixels with the same label, or `None` if the file has
    no such output. Sizes are in bytes, times in seconds per call."""

    runtime: str
    images: int
    differences: dict[str, float]
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
    model: keras.Model,
    path: str | os.PathLike,
    images: Sequence | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    runs: int = 3,
) -> Verification:
    """Compares a model with a file exported from it, on the same images.

    Args:
        model: the `EncNet`; if its dtype policy is not float32, a float32 copy is compared.
        path: the exported file or directory, as `model.export` returns it.
        images: paths, PIL images or arrays; by default drawn street scenes.
        image_size: `(height, width)`, if the file was exported for images of that size.
        batch_size: number of images, if the file was exported for batches of that size.
        runs: how often to time the first image; medians are reported.

    Raises:
        ValueError: if there are no images or runs, or if the file was exported from another model.
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
            "`images` must hold one or more images, or be None for drawn street scenes. Received: []"
        )
    if image_size:
        images = [resize_image(image, *image_size) for image in images]

    agreement, differences = [], {}
    for i, image in enumerate(images):
        batch = np.repeat(image[None], batch_size or 1, axis=0)
        found = run(batch)
        for name, value in _expected(model, image, found).items():
            shape = None if value is None else value.shape
            if found[name][0].shape != shape:
                raise ValueError(
                    f"{path} must give the same shapes as the model. Received: {name!r} of shape "
                    f"{found[name][0].shape}, where the model gives {shape}. Was it exported from this "
                    "model?"
                )
            if name == "labels":
                agreement.append((found[name][0] == value).mean())
            else:
                scale = abs(value).max() if name == "logits" else 1
                differences[name] = max(
                    differences.get(name, 0), float(abs(found[name][0] - value).max() / scale)
                )
        if i == 0:
            times = [(_seconds(model.segment, image), _seconds(run, batch)) for _ in range(runs)]
    model_seconds, seconds = np.median(times, axis=0)
    return Verification(
        RUNTIMES["" if path.is_dir() else path.suffix],
        len(images),
        differences,
        float(np.mean(agreement)) if agreement else None,
        4 * model.count_params(),
        _size(path),
        float(model_seconds),
        float(seconds),
    )


def _expected(model, image, found):
    """The model's results for the outputs in `found`."""
    expected = {}
    if {"labels", "presence"} & set(found):
        result = model.segment(image)
        expected |= {"labels": result.label_map, "presence": result.presence}
    if {"logits", "probabilities"} & set(found):
        logits = model.predict_on_batch(image[None])[0]
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        expected |= {"logits": logits, "probabilities": odds / odds.sum(-1, keepdims=True)}
    return {name: expected[name] for name in found}


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
    # OpenVINO keeps the weights in a second file.
    weights = path.with_suffix(".bin")
    has_weights = path.suffix == ".xml" and weights.exists()
    return path.stat().st_size + (weights.stat().st_size if has_weights else 0)
