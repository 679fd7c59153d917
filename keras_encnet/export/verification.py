"""Compares an exported file with its model: results, size and speed."""

import functools
import os
import pathlib
import signal
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_encnet.data.folders import image_paths
from keras_encnet.data.images import read_image
from keras_encnet.data.resizing import resize_image
from keras_encnet.demo.drawing import scenes
from keras_encnet.export import runtimes
from keras_encnet.export.arguments import are_integers, check_shape
from keras_encnet.processes import last_lines, run_python

SIZES = ((512, 512), (97, 131))


class Verification(NamedTuple):
    """The result of `verify`; prints as a table.

    Where a file has several runtimes, each figure is of the one that differs most from the model.
    `differences` holds the largest difference of each numeric output, for `logits` relative to the
    largest logit. `labels` is the fraction of pixels with the same label, or `None` if the file has
    no such output. Sizes are in bytes, times in seconds per call; `seconds` has one for each runtime,
    by its name and version."""

    images: int
    differences: dict[str, float]
    labels: float | None
    model_size: int
    size: int
    model_seconds: float
    seconds: dict[str, float]

    def __str__(self):
        lines = [
            f"{' and '.join(self.seconds)} compared with the model in float32, {self.images} images:"
        ]
        if self.labels is not None:
            lines.append(f"  the same label: {self.labels:.4%} of the pixels")
        for name, value in self.differences.items():
            lines.append(f"  largest difference of {name}: {value:.1e}")
        lines.append(f"  size: {self.size / 1e6:.1f} MB; weights: {self.model_size / 1e6:.1f} MB")
        times = {**self.seconds, "model": self.model_seconds}
        lines.append("  time: " + "; ".join(f"{name}: {time:.3f} s" for name, time in times.items()))
        return "\n".join(lines)


def verify(
    model: keras.Model,
    path: str | os.PathLike,
    images: str | os.PathLike | Sequence | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    runs: int = 3,
) -> Verification:
    """Compares a model with a file exported from it, on the same images.

    The file is run in every runtime of its format that is installed, for LiteRT in `ai_edge_litert` and
    in TensorFlow's own `tf.lite`, each in a process of its own and on the processor.

    Args:
        model: the `EncNet`; if its dtype policy is not float32, a float32 copy is compared.
        path: the exported file or directory, as `model.export` returns it.
        images: a folder, a glob, or paths, PIL images or arrays; by default drawn street scenes.
        image_size: `(height, width)`, if the file was exported for images of that size.
        batch_size: number of images, if the file was exported for batches of that size.
        runs: how often to time the first image; medians are reported.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if an argument is out of range, or if the file was exported from another model.
        ImportError: if no runtime of the file is installed.
        ChildProcessError: if the file crashes a runtime; it is named.
    """
    path = pathlib.Path(path)
    names = runtimes.runtimes_of(path)
    check_shape(image_size, batch_size)
    if not are_integers([runs], 1, 1):
        raise ValueError(f"`runs` must be an integer of 1 or more. Received: {runs!r}")
    model = _in_float32(model)
    if images is None:
        sizes = [image_size] if image_size else SIZES
        images = [scenes(1, size=tuple(size), seed=0)[0][0] for size in sizes]
    elif isinstance(images, (str, os.PathLike)):
        images = image_paths(images)
    images = [read_image(image) for image in images]
    if not images:
        raise ValueError(
            "`images` must hold one or more images, or be None for drawn street scenes. Received: []"
        )
    if image_size:
        images = [resize_image(image, *image_size) for image in images]
    batches = [np.repeat(image[None], batch_size or 1, axis=0) for image in images]
    installed = [name for name in names if runtimes.version_of(name)]
    if not installed:
        package = runtimes.RUNTIMES[names[0]].package
        raise ImportError(
            f"Running {path.name!r} needs {package}, which is not installed: pip install {package}",
            name=package,
        )
    found = {runtimes.version_of(name): _run(name, path, batches, runs) for name in installed}

    (outputs, _), *_ = found.values()
    segment = functools.partial(model.segment, confidence="confidence" in outputs[0])
    agreement, differences = {title: [] for title in found}, {}
    for i, image in enumerate(images):
        expected = None
        for title, (outputs, _) in found.items():
            expected = expected or _expected(model, segment, image, outputs[i])
            for name, value in expected.items():
                result, shape = outputs[i][name], None if value is None else value.shape
                if result.shape != shape:
                    raise ValueError(
                        f"{path} must give the same shapes as the model. Received: {name!r} of shape "
                        f"{result.shape}, where the model gives {shape}. Was it exported from this "
                        "model?"
                    )
                if name == "labels":
                    agreement[title].append((result == value).mean())
                else:
                    scale = abs(value).max() if name == "logits" else 1
                    differences.setdefault(name, []).append(abs(result - value).max() / scale)
    return Verification(
        len(images),
        # NumPy's maximum of numbers and NaN is NaN.
        {name: float(np.max(values)) for name, values in differences.items()},
        min(float(np.mean(same)) for same in agreement.values()) if all(agreement.values()) else None,
        4 * model.count_params(),
        _size(path),
        float(np.median([_seconds(segment, images[0]) for _ in range(runs)])),
        {title: float(np.median(seconds)) for title, (_, seconds) in found.items()},
    )


def _run(name, path, batches, runs):
    """The outputs of the first image of each batch, a list of dicts, and times, from a process of its
    own."""
    title = runtimes.version_of(name)
    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        job = {
            "runtime": name,
            "path": str(path.resolve()),
            "images": f"{scratch}/images.npz",
            "results": f"{scratch}/results.npz",
            "runs": runs,
        }
        np.savez(job["images"], **{str(i): batch for i, batch in enumerate(batches)})
        process = run_python(["-P", runtimes.__file__], job)
        if process.returncode < 0:
            raise ChildProcessError(
                f"{path} crashed in {title}: {signal.Signals(-process.returncode).name}. Do not use "
                f"the file there.\n{last_lines(process)}"
            )
        if process.returncode:
            raise ChildProcessError(f"{path} failed in {title}:\n{last_lines(process)}")
        with np.load(job["results"]) as results:
            results = dict(results)
    if "error" in results:
        raise ValueError(f"{path}, in {title}: {results['error']}")
    seconds, outputs = results.pop("seconds"), [{} for _ in batches]
    for key, value in results.items():
        i, _, name = key.partition("/")
        outputs[int(i)][name] = value
    return outputs, seconds


def _expected(model, segment, image, found):
    """The model's results for the outputs in `found`."""
    expected = {}
    if {"labels", "presence", "confidence"} & set(found):
        result = segment(image)
        expected |= {"labels": result.label_map, "presence": result.presence}
        expected["confidence"] = result.confidence
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
