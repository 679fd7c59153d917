"""Images and masks: read from files, and resized as the reference recipes resize them."""

import os

import numpy as np
from PIL import Image, ImageOps

STRIP = 1 << 15  # output pixels resized at a time: the working set stays in the processor's cache


def read_image(source):
    """Reads an image as RGB, the way a viewer shows it.

    The EXIF orientation is applied, grey becomes three equal channels, 16-bit values are scaled to
    8 bits (their high byte), CMYK and the like are converted, and an alpha channel is dropped, as
    OpenCV and so mmsegmentation do.

    Args:
        source: a path, a PIL image, or an array `(height, width)` or `(height, width, 1, 3 or 4)`
            with values in [0, 255]; floats are rounded.

    Returns:
        `uint8` array `(height, width, 3)`, RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or not an image, or the array is not one; it is named.

    >>> import numpy as np
    >>> from PIL import Image
    >>> read_image(Image.new("L", (3, 2), color=7)).tolist()[0]
    [[7, 7, 7], [7, 7, 7], [7, 7, 7]]
    >>> read_image(np.full((2, 3, 3), 254.6)).max()
    np.uint8(255)
    """
    if isinstance(source, Image.Image):
        return _rgb(_upright(source, "the image"))
    if isinstance(source, (str, os.PathLike)):
        with _open(source) as image:
            return _rgb(_upright(image, source))
    return _from_array(source)


def read_mask(source, palette=None):
    """Reads a mask as labels, whatever its mode: a palette's indices, grey values, or bits.

    A colour file whose three channels are equal is grey; any other needs `palette`.

    Args:
        source: a path or a PIL image.
        palette: `(num_classes, 3)` RGB colours; the label of a pixel is the row of its colour.
            Files of grey values (modes `L`, `I`, `1`) hold labels already and are read as such.

    Returns:
        Integer array `(height, width)`: `uint8`; `int32` from files of 16 bits and more.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or not an image, has colours that are not in `palette`,
            or has colours and there is no `palette`.

    >>> from PIL import Image
    >>> colours = Image.new("RGB", (2, 1), color=(0, 128, 192))
    >>> read_mask(colours, palette=[(128, 0, 0), (0, 128, 192)]).tolist()
    [[1, 1]]
    """
    if isinstance(source, Image.Image):
        return _labels(source, palette, "the mask")
    with _open(source) as image:
        return _labels(image, palette, source)


def image_size(path):
    """The `(height, width)` that `read_image(path)` would have, from the file's header alone."""
    with _open(path) as image:
        width, height = image.size
        sideways = image.getexif().get(0x0112, 1) >= 5
    return (width, height) if sideways else (height, width)


def resize_image(image, height, width, window=None):
    """Resizes an image bilinearly without antialiasing, as OpenCV's `INTER_LINEAR` does.

    Pixel centres lie at half integers, the edge is repeated, and the result is rounded; OpenCV
    computes with 11-bit weights and may differ by one level.

    Args:
        image: `uint8` array `(h, w, channels)`.
        height, width: the new size in pixels.
        window: `(top, left, height, width)` of the part to compute, in pixels of the new size;
            all of it by default.

    Returns:
        `uint8` array `(height, width, channels)`, or of the window's size.

    >>> import numpy as np
    >>> ramp = np.array([[[0], [100]]], "uint8")
    >>> resize_image(ramp, 1, 4)[0, :, 0].tolist()
    [0, 25, 75, 100]
    >>> resize_image(ramp, 1, 4, window=(0, 1, 1, 2))[0, :, 0].tolist()
    [25, 75]
    """
    top, left, rows, columns = window or (0, 0, height, width)
    if (height, width) == image.shape[:2]:
        return image[top : top + rows, left : left + columns].copy()
    y0, y1, wy = _taps(image.shape[0], height, top, rows)
    x0, x1, wx = _taps(image.shape[1], width, left, columns)
    first = x0[0]
    image, x0, x1 = image[:, first : x1[-1] + 1], x0 - first, x1 - first
    wy, wx = wy[:, None, None], wx[:, None]
    resized = np.empty((rows, columns, image.shape[2]), "uint8")
    strip = max(1, STRIP // columns)
    for start in range(0, rows, strip):
        part = slice(start, start + strip)
        above = image[y0[part]].astype("float32")
        below = image[y1[part]].astype("float32")
        below -= above
        below *= wy[part]
        below += above
        before, after = below.take(x0, axis=1), below.take(x1, axis=1)
        after -= before
        after *= wx
        after += before
        after += 0.5
        resized[part] = after
    return resized


def resize_mask(mask, height, width, window=None):
    """Resizes a mask to the nearest label as OpenCV's `INTER_NEAREST` does: `floor(i * scale)`.

    Args:
        mask: array `(h, w)`.
        height, width: the new size in pixels.
        window: `(top, left, height, width)` of the part to compute; all of it by default.

    Returns:
        Array of the mask's dtype `(height, width)`, or of the window's size.

    >>> import numpy as np
    >>> resize_mask(np.array([[1, 2, 3]]), 1, 2).tolist()
    [[1, 2]]
    """
    top, left, rows, columns = window or (0, 0, height, width)
    if (height, width) == mask.shape:
        return mask[top : top + rows, left : left + columns].copy()
    y = _nearest(mask.shape[0], height, top, rows)
    x = _nearest(mask.shape[1], width, left, columns)
    return mask[y].take(x, axis=1)


def _taps(old, new, start, count):
    at = (np.arange(start, start + count) + 0.5) * (old / new) - 0.5
    low = np.floor(at).astype("intp")
    weight = (at - low).astype("float32")
    return np.clip(low, 0, old - 1), np.clip(low + 1, 0, old - 1), weight


def _nearest(old, new, start, count):
    # 1 / (new / old) and not old / new: OpenCV's own rounding decides at whole numbers.
    at = np.floor(np.arange(start, start + count) * (1 / (new / old))).astype("intp")
    return np.minimum(at, old - 1)


def _open(path):
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image file {os.fspath(path)!r}.") from None
    except IsADirectoryError:
        raise ValueError(f"{os.fspath(path)!r} is a directory, expected an image file.") from None
    except Exception as error:
        raise _unreadable(path, error) from error


def _upright(image, name):
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name, error):
    return ValueError(
        f"Cannot read {os.fspath(name)!r}: the file is truncated, or not an image that Pillow "
        f"knows ({error}). Replace it or leave it out."
    )


def _rgb(image):
    if image.mode[0] in "IF":  # I;16 and its kin, I, F
        values = np.asarray(image)
        if image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) > 255):
            values = values.astype("int32") >> 8
        image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype("uint8"))
    return np.array(image.convert("RGB"))


def _from_array(source):
    array = np.asarray(source)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.dtype.kind not in "uif":
        raise ValueError(
            "Expected an image as a path, a PIL image, or an array (height, width, 3) of numbers "
            f"in [0, 255]; got {type(source).__name__} of shape {array.shape} and dtype "
            f"{array.dtype}. Pass one image at a time, channels last."
        )
    if array.dtype != "uint8":
        if not np.isfinite(array).all():
            raise ValueError("The image holds NaN or infinity; expected numbers in [0, 255].")
        if array.size and not 0 <= array.min() <= array.max() <= 255:
            raise ValueError(
                f"The image's values run from {array.min()} to {array.max()}; expected [0, 255]. "
                "Scale them: 16-bit values divided by 257, for instance."
            )
        array = np.rint(array).astype("uint8")
    if array.shape[2] == 1:
        array = array.repeat(3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _labels(image, palette, name):
    step = _grey_step(image)
    image = _upright(image, name)
    if image.mode[0] in "1IF" or image.mode == "L" or (image.mode == "P" and palette is None):
        labels = _integers(np.asarray(image), name) // step
        return labels.astype("uint8" if image.mode in "1LP" else "int32")
    if image.mode == "LA":
        return np.array(image.getchannel("L"))
    if image.mode not in ("P", "PA", "RGB", "RGBA"):
        raise ValueError(
            f"The mask {os.fspath(name)!r} has mode {image.mode}; expected labels (modes L, P, I, "
            "1) or RGB colours with `palette=`."
        )
    colours = np.asarray(image.convert("RGB"))
    if palette is not None:
        return _from_colours(colours, palette, name)
    if (colours == colours[:, :, :1]).all():
        return np.ascontiguousarray(colours[:, :, 0])
    raise ValueError(
        f"The mask {os.fspath(name)!r} holds colours, not labels. Pass `palette=`, the "
        "(num_classes, 3) RGB colours in label order."
    )


def _integers(values, name):
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        raise ValueError(f"The mask {os.fspath(name)!r} holds fractions; expected integer labels.")
    return values


def _grey_step(image):
    """Pillow stretches 2- and 4-bit grey PNG files to 0 … 255: the factor, which labels undo."""
    tiles = getattr(image, "tile", None)
    raw_mode = tiles[0][3] if tiles else None
    return {"L;2": 85, "L;4": 17}.get(raw_mode, 1) if isinstance(raw_mode, str) else 1


def _from_colours(colours, palette, name):
    palette = np.asarray(palette)
    if palette.ndim != 2 or palette.shape[1] != 3:
        raise ValueError(
            f"`palette` is (num_classes, 3) RGB colours; got an array of shape {palette.shape}."
        )
    codes = _code(palette)
    order = np.argsort(codes, kind="stable")
    pixels = _code(colours)
    place = np.searchsorted(codes[order], pixels).clip(max=len(codes) - 1)
    labels = order[place]
    strange = codes[labels] != pixels
    if strange.any():
        found, counts = np.unique(pixels[strange], return_counts=True)
        most = np.argsort(-counts)[:5]
        listed = ", ".join(
            f"({c >> 16}, {c >> 8 & 255}, {c & 255}) in {n} pixels"
            for c, n in zip(found[most].tolist(), counts[most].tolist(), strict=True)
        )
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ValueError(
            f"The mask {os.fspath(name)!r} has colours that are not in the palette: "
            f"{listed}{more}. Add them to `palette`, or name the label they mean in `label_map`, "
            "{(0, 0, 0): 255} for instance; JPEG masks and antialiased edges invent colours: save "
            "masks as PNG."
        )
    return labels.astype("uint8" if len(palette) <= 256 else "int32")


def _code(colours):
    colours = colours.astype("int32")
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
