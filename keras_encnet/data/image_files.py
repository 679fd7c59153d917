"""Opening image files: which formats, how many pixels, which way up."""

import io
import os

from PIL import Image, ImageOps, JpegImagePlugin, TiffImagePlugin

EXIF_ORIENTATION = 0x0112
MAX_PIXELS = 2**28  # of an image file; as RGB it takes 0.8 GB, and 1.1 GB while Pillow decodes it

# Others can start programs (EPS) or are no pictures. Pillow may have been built without the last two.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "AVIF")


def open_image(path: str | os.PathLike) -> Image.Image:
    """Opens an image file of one of `FORMATS`, to be used in `with`. Its pixels are not read yet.

    Only the plugins of these formats see the file. Pillow's own limit of pixels, and the warning below
    it, are replaced by `MAX_PIXELS`.

    Raises:
        OSError: if the file does not exist or cannot be opened.
        ValueError: if the path is that of a directory, or the file is truncated, not an image of these
            formats, or has more pixels. The message names the file.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/photo.jpg"
    >>> Image.new("RGB", (48, 32)).save(path)
    >>> with open_image(path) as image:
    ...     image.size
    (48, 32)
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image file {name!r}.") from None
    except IsADirectoryError:
        raise ValueError(f"An image must be a file. Received: {name!r}, a directory") from None
    return _open(name, start, name)


def open_bytes(data: bytes, name: str) -> Image.Image:
    """Opens the contents of an image file, as `open_image` does; `name` is for errors.

    Raises:
        ValueError: as for `open_image`.

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (48, 32)).save(file, "PNG")
    >>> with open_bytes(file.getvalue(), "image 7") as image:
    ...     upright_size(image, "image 7")
    (32, 48)
    """
    return _open(io.BytesIO(data), data[:16], name)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """The `(height, width)` of `read_image(path)`. Only the header is read, except of PNG files, whose
    EXIF orientation may come last.
    """
    with open_image(path) as image:
        return upright_size(image, path)


def upright_size(image: Image.Image, name: str | os.PathLike) -> tuple[int, int]:
    """The `(height, width)` that an opened file has once its EXIF orientation is applied; `name` is for
    the error."""
    width, height = image.size
    # Pillow has turned TIFF already.
    turned = image.format != "TIFF" and _orientation(image, name) >= 5
    return (width, height) if turned else (height, width)


def orientation(path: str | os.PathLike) -> int:
    """The EXIF orientation of a file, 1 to 8, which `read_image` applies. From 5 it swaps the sides."""
    with open_image(path) as image:
        return _orientation(image, path)


def file_format(path: str | os.PathLike) -> str:
    """The format of an image file, one of `FORMATS`, whatever the ending of its name."""
    with open_image(path) as image:
        return image.format


def upright(image: Image.Image, name: str | os.PathLike) -> Image.Image:
    """The image with its pixels read and its EXIF orientation applied; `name` is for the error."""
    try:
        image.load()
    except Exception as error:
        raise unreadable(name, error) from error
    if _orientation(image, name) == 1:
        return image  # `exif_transpose` would copy it
    return ImageOps.exif_transpose(image)


def unreadable(name: str | os.PathLike, error: Exception) -> ValueError:
    """The error about a file that Pillow cannot read."""
    return ValueError(
        f"Cannot read {os.fspath(name)!r}: the file is truncated or not an image that Pillow "
        f"can read ({str(error) or type(error).__name__}). Replace it or leave it out."
    )


def raw_mode(image: Image.Image) -> str:
    """How the file stores pixels, in Pillow's words ("L;4"), or "" if that is not known."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


class _Tiff(TiffImagePlugin.TiffImageFile):
    def load_prepare(self):
        # Pillow compares the size with its own limit of pixels where it makes the image itself.
        if self._im is None:
            self.im = Image.core.new(self.mode, getattr(self, "_tile_size", self.size))
        super().load_prepare()


# Pillow's own factory of JPEG looks for further images behind the first.
OWN_PLUGINS = {"JPEG": JpegImagePlugin.JpegImageFile, "TIFF": _Tiff}


def _open(source, start, name):
    """Opens a path or file object that starts with these bytes."""
    if not start:
        raise ValueError(f"Cannot read {name!r}: the file is empty. Replace it or leave it out.")
    plugin = _plugin(start)
    if plugin is None:
        raise ValueError(
            f"Cannot read {name!r}: it is not an image, or not one of {', '.join(FORMATS)}. Convert "
            "it, or open it with Pillow and pass the PIL image."
        )
    try:
        image = plugin(source)
    except Exception as error:
        raise unreadable(name, error) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise ValueError(
            f"An image file must have {MAX_PIXELS / 1e6:.0f} megapixels or fewer. Received: {name!r}, "
            f"{height}×{width} (height×width), {width * height / 1e6:.0f} megapixels. Cut it into "
            "parts, or reduce it."
        )
    return image


def _plugin(start):
    """The class of Pillow that reads a file with these first bytes, or `None`."""
    Image.init()
    start = start.ljust(16, b"\0")  # plugins look at bytes that a cut file does not have
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        # A text says that Pillow was built without the format.
        if accept and accept(start) is True:
            return OWN_PLUGINS.get(name, factory)
    return None


def _orientation(image, name):
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:
        raise unreadable(name, error) from error
    return value if value in range(1, 9) else 1
