"""Checks of the arguments of `EncNet`, and of its input; what its config makes of them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_encnet.data.conventions import (
    MIN_SIZE,
    check_image_size,
    check_integer,
    check_palette,
    ignore_index_for,
    is_integer,
)


def check_classes(
    num_classes: int, labels: Sequence[str] | None, palette: Any, ignore_index: int
) -> None:
    """Checks what `EncNet` says about classes; raises a `ValueError`."""
    check_integer("num_classes", num_classes)
    if labels is not None:
        names = [] if isinstance(labels, str) else list(labels)
        if len(names) != num_classes or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"`labels` must be {num_classes} names, one for each class. Received: {labels!r}"
            )
    if palette is not None:
        check_palette(palette, num_classes)
    if not is_integer(ignore_index) or ignore_index < num_classes:
        raise ValueError(
            f"`ignore_index` must be an integer from {num_classes} up, a value that none of the "
            f"{num_classes} classes (0 to {num_classes - 1}) has. Received: {ignore_index!r}. Choose "
            f"{ignore_index_for(num_classes)}, for instance."
        )


def check_network(
    num_codes: int, head_channels: int, dropout: float, mean: Any, std: Any, **switches: bool
) -> None:
    """Checks the arguments of `EncNet` about its heads and its input; raises a `ValueError`."""
    check_integer("num_codes", num_codes)
    check_integer("head_channels", head_channels)
    for name, value in switches.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"`{name}` must be True or False. Received: {value!r}")
    if not _are_numbers(dropout, shape=()) or not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be at least 0 and less than 1. Received: {dropout!r}")
    for name, value in (("mean", mean), ("std", std)):
        if not _are_numbers(value, shape=(3,)):
            raise ValueError(
                f"`{name}` must be three numbers, for red, green and blue. Received: {value!r}"
            )
    if min(std) <= 0:
        raise ValueError(f"`std` must be positive, because pixels are divided by it. Received: {std!r}")


def check_backbone(backbone: str | keras.Model, width: float, output_stride: int) -> None:
    """Checks that what belongs to a backbone by name has one; raises a `ValueError`."""
    if isinstance(backbone, str) or (width == 1 and output_stride == 8):
        return
    raise ValueError(
        "`width` and `output_stride` are for a backbone that is given by name. Received: "
        f"width={width!r}, output_stride={output_stride!r} with a model as `backbone`. Build the "
        "backbone so, and leave them out."
    )


def check_shape(shape: Sequence[int | None]) -> None:
    """The checks of images that tensors allow: rank, channels, and the size if it is known.

    Raises:
        ValueError: if one fails.
    """
    if len(shape) != 4 or shape[-1] != 3:
        remedy = "For a single image add an axis: images[None]."
        if len(shape) == 4:
            remedy = "For grey images pass np.repeat(images, 3, axis=-1), for RGBA images[..., :3]."
        if len(shape) == 4 and shape[1] == 3:
            remedy = "They look channels-first: pass np.moveaxis(images, 1, -1)."
        raise ValueError(
            "EncNet takes RGB images of shape (batch, height, width, 3). "
            f"Received shape: {tuple(shape)}. {remedy}"
        )
    # A side that is not known yet may be large enough.
    check_image_size(*(MIN_SIZE if side is None else side for side in shape[1:3]), "Images")


def serialized(backbone: keras.Model) -> dict:
    """The config of a backbone, not compiled: its optimizer is no part of the model around it."""

    def without_compile(value):
        if isinstance(value, dict):
            return {k: without_compile(v) for k, v in value.items() if k != "compile_config"}
        return [without_compile(v) for v in value] if isinstance(value, (list, tuple)) else value

    return without_compile(keras.saving.serialize_keras_object(backbone))


def plain(value: Any) -> Any:
    """A value without the types in which Keras keeps the dicts and lists of a model."""
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _are_numbers(value, shape):
    try:
        value = np.asarray(value)
    except ValueError:  # rows of different lengths
        return False
    return value.shape == shape and value.dtype.kind in "iuf" and bool(np.isfinite(value).all())
