"""From the bytes of a request to pixels, and from labels to a PNG. The bytes are not trusted."""

import io

import numpy as np
from PIL import Image, ImageOps, features
from starlette.exceptions import HTTPException

FORMATS = ["JPEG", "PNG", "WEBP"] if features.check("webp") else ["JPEG", "PNG"]
EXPECTED = f"The image must be a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file".replace(
    "WEBP", "WebP"
)
MIN_SIDE = 32
MAX_SCANS = 64  # of a progressive JPEG: each takes a few bytes, and as much time as a complete image
SUPPORTED = (b"\xff\xd8", b"\x89PNG", b"RIFF")
OTHERS = {
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"%PDF": "a PDF file",
    b"PK\3\4": "a zip archive",
    b"\x1f\x8b": "gzip data",
}

Image.MAX_IMAGE_PIXELS = None  # `open_image` checks the header against the server's limit


def open_image(body, max_pixels):
    """Opens the image in `body` and reads only its header.

    Raises:
        HTTPException: if it is not an image of a supported format (415), broken (422), too small (422)
            or too large (413).
    """
    if not body.startswith(SUPPORTED):
        raise HTTPException(415, f"{EXPECTED}. Received: {_kind(body)}.")
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
    except Exception as error:  # Pillow raises a dozen kinds
        raise _broken(error) from None
    width, height = image.size
    if width * height > max_pixels:
        raise HTTPException(
            413,
            f"The image must have at most {max_pixels:,} pixels. "
            f"Received: {width} × {height} (width × height). Send a smaller one.",
        )
    if min(width, height) < MIN_SIDE:
        raise HTTPException(
            422,
            f"The image must have {MIN_SIDE} pixels or more on both sides. "
            f"Received: {width} × {height} (width × height). Send a larger one.",
        )
    if image.format == "JPEG" and (scans := body.count(b"\xff\xda")) > MAX_SCANS:
        raise HTTPException(
            422,
            f"The JPEG must have at most {MAX_SCANS} scans. Received: {scans}. Save it again without "
            "progressive encoding.",
        )
    return image


def decode(image):
    """The `uint8` RGB pixels `(height, width, 3)` of an opened image, as a viewer shows it.

    The EXIF orientation is applied, an alpha channel is dropped, and 16 bits become 8.

    Raises:
        HTTPException: if the file is truncated or broken (422).
    """
    try:
        image.load()
    except Exception as error:
        raise _broken(error) from None
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # viewers show the image even if its EXIF data is invalid
        pass
    if image.mode[0] == "I":
        values = np.asarray(image, "int32")
        image = Image.fromarray(np.clip(values >> 8, 0, 255).astype("uint8"))
    return np.asarray(image.convert("RGB"))


def encode(labels, palette):
    """The bytes of a PNG whose pixels are labels and whose palette has the classes' colours.

    With more than 256 classes, too many for a palette, it is 16-bit grey.
    """
    picture = Image.fromarray(labels)
    if len(palette) <= 256 and labels.dtype == np.uint8:
        # With a short palette Pillow would pack pixels into two or four bits.
        picture.putpalette(palette.tobytes().ljust(768, b"\0"))
    out = io.BytesIO()
    picture.save(out, format="PNG", compress_level=1)
    return out.getvalue()


def _broken(error):
    return HTTPException(
        422,
        f"The image must be a complete file. Received: a broken or truncated one ({error}). "
        "Send it again.",
    )


def _kind(body):
    for signature, kind in OTHERS.items():
        if body.startswith(signature):
            return kind
    if body[4:8] == b"ftyp":
        return f"a file of type {body[8:12].decode('latin-1')!r} (HEIC, AVIF or a video)"
    try:
        text = bytes(body[:24]).decode("ascii")
    except UnicodeDecodeError:
        return "a file of unknown format"
    return f"text that begins {text!r}"
