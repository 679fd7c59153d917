"""Reading images and masks from files."""

import os
import warnings

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from keras_encnet.data.conventions import IGNORE_INDEX, check_palette
from keras_encnet.data.image_files import open_image, raw_mode, unreadable, upright

NEARLY_BLACK = 16  # below this level of 256


def read_image(source: str | os.PathLike | Image.Image | np.ndarray) -> np.ndarray:
    """Reads an image as RGB, as an image viewer shows it.

    The EXIF orientation is applied, grey becomes three equal channels, and CMYK and other colour
    spaces are converted. An alpha channel is dropped, as OpenCV and therefore mmsegmentation do.

    Values are in [0, 255], in files and arrays alike, and floats are rounded. Only 16-bit files and PIL
    images may have values up to 65535, which become 8-bit (their high byte).

    Args:
        source: the path of a file that `open_image` opens, a PIL image, or an array
            `(height, width)` or `(height, width, 1, 3 or 4)`.

    Returns:
        `uint8` array `(height, width, 3)`, RGB.

    Raises:
        OSError: if the file does not exist or cannot be opened.
        ValueError: if the file is truncated, not an image or too large, the array is not an image, or
            values are NaN, infinite or outside their range. The message names the file.

    Warns:
        UserWarning: if floats look scaled to [0, 1], or a 16-bit image is nearly black.

    >>> import numpy as np
    >>> from PIL import Image
    >>> read_image(Image.new("L", (3, 2), color=7)).tolist()[0]
    [[7, 7, 7], [7, 7, 7], [7, 7, 7]]
    >>> read_image(np.full((2, 3, 3), 254.6)).max()
    np.uint8(255)
    """
    if isinstance(source, Image.Image):
        return _rgb(source, "The image", "the image")
    if isinstance(source, (str, os.PathLike)):
        with open_image(source) as image:
            return _rgb(image, f"The image {os.fspath(source)!r}", source)
    return _from_array(source)


def read_mask(source: str | os.PathLike | Image.Image, palette: ArrayLike | None = None) -> np.ndarray:
    """Reads the label values of a mask: palette indices, grey values or bits.

    A colour file with three equal channels is read as grey. Other colour files need `palette`.

    Args:
        source: a path or a PIL image.
        palette: RGB colours of the classes, `(num_classes, 3)`. The label of a pixel is the row of
            its colour. Greyscale files (modes `L`, `I`, `1`) contain labels and do not use it.

    Returns:
        Integer array `(height, width)`: `uint8`, or `int32` for files of 16 bits or more.

    Raises:
        OSError: if the file does not exist or cannot be opened.
        ValueError: if the file is truncated, not an image or too large, has colours that are not in
            `palette`, or has colours and there is no `palette`. The message names the file.

    >>> from PIL import Image
    >>> colours = Image.new("RGB", (2, 1), color=(0, 128, 192))
    >>> read_mask(colours, palette=[(128, 0, 0), (0, 128, 192)]).tolist()
    [[1, 1]]
    """
    if isinstance(source, Image.Image):
        return _labels(source, palette, "the mask")
    with open_image(source) as image:
        return _labels(image, palette, source)


def check_range(values: np.ndarray, what: str, *, strict: bool = False) -> None:
    """Checks that the values of one or several images are in [0, 255].

    Args:
        values: an array of numbers. `uint8` is valid without a look.
        what: subject of the message, "Images" or "The image 'a.tif'" for instance.
        strict: whether values outside are an error, because the image has to become `uint8`.

    Raises:
        ValueError: if values are NaN or infinite; if `strict`, also if they are outside.

    Warns:
        UserWarning: if floats have no value above 1, or values are outside.
    """
    if values.dtype in ("uint8", bool) or not values.size:
        return
    low, high = float(values.min()), float(values.max())
    expected = f"{what} must have values in [0, 255], because the model normalizes them itself."
    if not np.isfinite([low, high]).all():
        finite = np.isfinite(values.astype("float32")).reshape(len(values), -1).all(axis=1)
        first = f", first in image {finite.argmin()}" if values.ndim == 4 else ""
        raise ValueError(
            f"{what} must have finite values in [0, 255]. Received: NaN or infinity{first}"
        )
    if values.dtype.kind not in "ui" and 0 <= low and 0 < high <= 1:
        warnings.warn(
            f"{expected} Received: floats up to {high:.2g}, which look scaled to [0, 1]. Pass the "
            "uint8 images, or multiply by 255.",
            stacklevel=3,
        )
    elif low < 0 or high > 255:
        message = (
            f"{expected} Received: values from {low:g} to {high:g}. Pass the original values of 8-bit "
            "files, or scale them: divide 16-bit values by 257, for instance."
        )
        if strict:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)


def _converted(image, name):
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise unreadable(name, error) from error


def _rgb(image, what, name):
    # "BGR;16" has five or six bits for each channel.
    is_deep = "16" in raw_mode(image).removeprefix("BGR;16")
    image = upright(image, name)
    if image.mode[0] not in "IF":  # I;16 and its variants, I, F
        array = np.array(_converted(image, name))
    else:
        array = np.asarray(image)
        low, high = array.min(initial=0), array.max(initial=0)
        if array.dtype.kind in "iu" and low >= 0 and 255 < high <= 65535:
            array, is_deep = (array.astype("int32") >> 8).astype("uint8"), True
        check_range(array, what, strict=True)
        array = np.rint(array).astype("uint8")[:, :, None].repeat(3, axis=2)
    if is_deep and array.max(initial=0) < NEARLY_BLACK:
        warnings.warn(
            f"{what} has 16 bits and is nearly black: its values are less than "
            f"{NEARLY_BLACK << 8} of 65535. If they have 12 bits or fewer, scale them to [0, 255] and "
            "pass an array.",
            stacklevel=3,
        )
    return array


def _from_array(source):
    array = np.asarray(source)
    if array.ndim == 2:
        array = array[:, :, None]
    numbers = array.dtype.kind in "uif" or array.dtype.name == "bfloat16"
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not numbers:
        raise ValueError(
            "An image must be a path, a PIL image, or an array (height, width, 3) of numbers in "
            f"[0, 255]. Received: {type(source).__name__} of shape {array.shape} and dtype "
            f"{array.dtype}. Pass one image at a time, channels last."
        )
    if array.dtype != "uint8":
        check_range(array, "An image", strict=True)
        array = np.rint(array).astype("uint8")
    if array.shape[2] == 1:
        array = array.repeat(3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _labels(image, palette, name):
    step = _grey_step(image)
    image = upright(image, name)
    if image.mode[0] in "1IF" or image.mode == "L" or (image.mode == "P" and palette is None):
        labels = _integers(np.array(image), name)
        labels = labels // step if step > 1 else labels
        return labels.astype("uint8" if image.mode in "1LP" else "int32", copy=False)
    if image.mode == "LA":
        return np.array(image.getchannel("L"))
    if image.mode not in ("P", "PA", "RGB", "RGBA"):
        raise ValueError(
            f"The mask {os.fspath(name)!r} must contain labels (modes L, P, I, 1), or RGB colours "
            f"with `palette=`. Received: mode {image.mode}"
        )
    if palette is not None:
        return _from_colours(image, palette, name)
    colours = np.asarray(image.convert("RGB"))
    if (colours == colours[:, :, :1]).all():
        return np.ascontiguousarray(colours[:, :, 0])
    raise ValueError(
        f"The mask {os.fspath(name)!r} must contain labels if there is no `palette`. Received: "
        "colours. Pass `palette=`, the (num_classes, 3) RGB colours in label order."
    )


def _integers(values, name):
    if values.dtype.kind == "f":
        whole = (np.abs(values) <= np.iinfo("int32").max) & (values == np.rint(values))
        if not whole.all():
            raise ValueError(
                f"The mask {os.fspath(name)!r} must contain integer labels. "
                f"Received: {values[~whole][0]:g}"
            )
    return values


def _grey_step(image):
    """The factor by which Pillow scaled the values: it expands 2- and 4-bit grey to 0 … 255."""
    return {"L;2": 85, "L;4": 17}.get(raw_mode(image)[:3], 1)


def _indices(image, palette):
    """The indices of an indexed file if its colours are those of `palette`, else `None`."""
    if image.mode != "P":
        return None
    own = np.array(image.getpalette("RGB") or [], "uint8").reshape(-1, 3)
    indices = np.array(image)
    same = np.array_equal(own[: len(palette)], palette)
    return indices if same and indices.max(initial=0) < len(palette) else None


def _from_colours(image, palette, name):
    palette = check_palette(palette)
    indices = _indices(image, palette)
    if indices is not None:
        return indices
    colours = np.asarray(image.convert("RGB"))
    codes = _code(palette)
    pixels = _code(colours)
    different, uses = np.unique(codes, return_counts=True)
    for code in different[uses > 1]:
        if (pixels == code).any():
            labels = ", ".join(map(str, np.flatnonzero(codes == code)))
            raise ValueError(
                "`palette` must have different colours for the classes of masks that are read by "
                f"colour. Received: the colour {_colour(code)} of the mask {os.fspath(name)!r} for the "
                f"labels {labels}"
            )
    order = np.argsort(codes, kind="stable")
    nearest = np.searchsorted(codes[order], pixels).clip(max=len(codes) - 1)
    labels = order[nearest]
    invalid = codes[labels] != pixels
    if invalid.any():
        found, counts = np.unique(pixels[invalid], return_counts=True)
        most = np.argsort(-counts)[:5]
        listed = ", ".join(
            f"{_colour(c)} in {n} pixels"
            for c, n in zip(found[most].tolist(), counts[most].tolist(), strict=True)
        )
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        remedy = (
            f"Add them to `palette`, or map them to a label with `label_map`, {{(0, 0, 0): "
            f"{IGNORE_INDEX}}} for instance. JPEG and antialiasing create new colours: save masks as "
            "PNG."
        )
        if image.mode == "P" and np.asarray(image).max() < len(palette):
            remedy = (
                f"The file is indexed, and its indices, up to {np.asarray(image).max()}, may be the "
                "labels: leave out `palette` here to read them, and give colours for display to the "
                f"model, `EncNet(palette=...)`. Otherwise: {remedy[0].lower()}{remedy[1:]}"
            )
        raise ValueError(
            f"The mask {os.fspath(name)!r} must contain only colours that are in `palette`. Received: "
            f"{listed}{more}. {remedy}"
        )
    return labels.astype("uint8" if len(palette) <= 256 else "int32")


def _colour(code):
    return f"({code >> 16}, {code >> 8 & 255}, {code & 255})"


def _code(colours):
    """One integer per colour."""
    colours = colours.astype("int32")
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
