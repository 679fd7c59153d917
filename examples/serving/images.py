"""From the bytes of a request to pixels, and from labels to a PNG: nothing here trusts the bytes."""

import io

import numpy as np
from PIL import Image, ImageOps, features
from starlette.exceptions import HTTPException

FORMATS = ["JPEG", "PNG", "WEBP"] if features.check("webp") else ["JPEG", "PNG"]
EXPECTED = f"expected the bytes of a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image".replace(
    "WEBP", "WebP"
)
MIN_SIDE = 32
MAX_SCANS = 64  # of a progressive JPEG; each costs as much as a whole image, and a few bytes
OURS = (b"\xff\xd8", b"\x89PNG", b"RIFF")
OTHERS = {
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"%PDF": "a PDF file",
    b"PK\3\4": "a zip archive",
    b"\x1f\x8b": "gzip data",
}

Image.MAX_IMAGE_PIXELS = None  # `open_image` checks the header against the server's own limit


def open_image(body, max_pixels):
    """The image in `body`, of which only the header has been read.

    Raises:
        HTTPException: it is no image of these formats (415), broken (422), too small (422) or too
            large (413).
    """
    if not body.startswith(OURS):
        raise HTTPException(415, f"What was sent is {_kind(body)}; {EXPECTED}.")
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
    except Exception as error:  # Pillow raises a dozen kinds
        raise _broken(error) from None
    width, height = image.size
    if width * height > max_pixels:
        raise HTTPException(
            413,
            f"The image has {width} × {height} pixels, expected {max_pixels:,} in all at most; "
            "send a smaller one.",
        )
    if min(width, height) < MIN_SIDE:
        raise HTTPException(
            422,
            f"The image has {width} × {height} pixels, expected sides of {MIN_SIDE} or more; "
            "send a larger one.",
        )
    if image.format == "JPEG" and body.count(b"\xff\xda") > MAX_SCANS:
        raise HTTPException(
            422, f"The JPEG has more than {MAX_SCANS} scans; expected an image as cameras save it."
        )
    return image


def decode(image):
    """`uint8` RGB pixels `(height, width, 3)` of an opened image, the way a viewer shows it.

    The EXIF orientation is applied, an alpha channel is dropped, 16 bits become 8.

    Raises:
        HTTPException: the file is truncated or broken (422).
    """
    try:
        image.load()
    except Exception as error:
        raise _broken(error) from None
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # EXIF that nobody can read turns nothing; viewers show the image all the same
        pass
    if image.mode[0] == "I":
        values = np.asarray(image, "int32")
        image = Image.fromarray(np.clip(values >> 8, 0, 255).astype("uint8"))
    return np.asarray(image.convert("RGB"))


def encode(labels, palette):
    """A PNG whose pixels are labels and whose palette is the classes' colours.

    Beyond 256 classes, which a palette cannot hold, it is 16-bit grey.
    """
    picture = Image.fromarray(labels)
    if len(palette) <= 256 and labels.dtype == np.uint8:
        # A full palette, or Pillow packs few classes into two or four bits a pixel.
        picture.putpalette(palette.tobytes().ljust(768, b"\0"))
    out = io.BytesIO()
    picture.save(out, format="PNG", compress_level=1)
    return out.getvalue()


def _broken(error):
    return HTTPException(
        422, f"The image is broken or truncated ({error}); expected a whole file, send it again."
    )


def _kind(body):
    for signature, kind in OTHERS.items():
        if body.startswith(signature):
            return kind
    if body[4:8] == b"ftyp":
        return f"a file of the type {body[8:12].decode('latin-1')!r} (HEIC, AVIF or a video)"
    try:
        text = bytes(body[:24]).decode("ascii")
    except UnicodeDecodeError:
        return "of a format that is not known here"
    return f"text that begins {text!r}"
