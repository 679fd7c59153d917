"""From the bytes of a request to what Pillow may see of them, and from labels to a PNG.

The bytes are not trusted. `inspect` walks over the parts of a file (the segments of a JPEG, the chunks
of a PNG or WebP) without decoding them, counts them, and keeps only those that make the picture.
Profiles, texts, thumbnails and further pictures, which cost Pillow time and memory, never reach it.
"""

import io
import re
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

FORMATS = ["JPEG", "PNG", "WEBP"] if features.check("webp") else ["JPEG", "PNG"]
EXPECTED = f"The image must be a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file".replace(
    "WEBP", "WebP"
)
OTHERS = {
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"%PDF": "a PDF file",
    b"PK\3\4": "a zip archive",
    b"\x1f\x8b": "gzip data",
}
MIN_SIDE = 32
MAX_SCANS = 64  # of a progressive JPEG: each takes a few bytes, and as much time as a complete image
MAX_PARTS = 10_000  # cameras and editors write at most some thousands
MAX_EXIF_ENTRIES = 500
SAVE_AGAIN = "Save it again as a baseline JPEG or an ordinary PNG."

JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")
JPEG_FILL = b"\xff" * 1000  # libjpeg reads long runs of fill bytes again and again
JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}  # Huffman, arithmetic, quantization, restart interval
JPEG_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


class Refused(ValueError):
    """An image that is not accepted: the status and the text of the answer."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Picture:
    """An image file, reduced to the parts that make the picture.

    Attributes:
        format: Pillow's name of the format.
        width, height: pixels, before `orientation` is applied.
        orientation: EXIF's, 1 to 8.
        data: the bytes for Pillow.
    """

    format: str
    width: int
    height: int
    orientation: int
    data: bytes


def inspect(body, max_pixels):
    """Finds the size and the `Picture` of a file, in a time that does not depend on what it claims.

    Raises:
        Refused: if it is not an image of a supported format (415), broken (422), of too many parts
            (422), too small (422) or too large (413).
    """
    if body.startswith(b"\xff\xd8"):
        picture = _jpeg(body)
    elif body.startswith(b"\x89PNG"):
        picture = _png(body)
    elif body.startswith(b"RIFF") and "WEBP" in FORMATS:
        picture = _webp(body)
    else:
        raise Refused(415, f"{EXPECTED}. Received: {_kind(body)}.")
    size = f"{picture.width} × {picture.height} (width × height)"
    if picture.width * picture.height > max_pixels:
        raise Refused(
            413,
            f"The image must have at most {max_pixels:,} pixels. Received: {size}. Send a smaller one.",
        )
    if min(picture.width, picture.height) < MIN_SIDE:
        raise Refused(
            422,
            f"The image must have {MIN_SIDE} pixels or more on both sides. Received: {size}. "
            "Send a larger one.",
        )
    return picture


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


def broken(reason):
    return Refused(
        422,
        f"The image must be a complete file. Received: a broken or truncated one ({reason}). "
        "Send it again.",
    )


def greedy(reason):
    return Refused(
        422,
        f"The image must be quick to decode. Received: one that {reason}. {SAVE_AGAIN}",
    )


def _jpeg(body):
    size, orientation, kept, at = None, None, [b"\xff\xd8"], 2
    for _ in range(MAX_PARTS):
        found = JPEG_MARKER.search(body, at)
        if not found:
            raise broken("truncated before its pixels")
        marker, at = found[0][1], found.end()
        if marker in JPEG_WITHOUT_LENGTH:
            continue
        segment = body[at : at + int.from_bytes(body[at : at + 2], "big")]
        if len(segment) < 2 or marker in (0xD8, 0xD9):
            raise broken("truncated before its pixels")
        if marker == 0xDA:
            break
        at += len(segment)
        if marker in JPEG_FRAMES:
            if size or len(segment) < 8:
                raise broken("not one frame")
            size = struct.unpack_from(">3x2H", segment)
        if marker == 0xE1 and segment[2:].startswith(b"Exif\0\0"):
            orientation = orientation or _orientation(segment[8:])
        if marker in JPEG_FRAMES | JPEG_TABLES or segment[2:].startswith(
            JPEG_COLOURS.get(marker, b"none")
        ):
            kept += [found[0], segment]
    else:
        raise _too_many("JPEG", "segments", MAX_PARTS)
    if not size:
        raise broken("no frame before its pixels")
    # What follows the end is another picture, or a film.
    end = body.find(b"\xff\xd9", at)
    scans = body[found.start() : end + 2 if end >= 0 else len(body)]
    if scans.count(b"\xff\xda") > MAX_SCANS:
        raise _too_many("JPEG", "scans", MAX_SCANS)
    if JPEG_FILL in scans:
        raise broken("filled with bytes 255")
    height, width = size
    return Picture("JPEG", width, height, orientation or 1, b"".join([*kept, scans]))


def _png(body):
    size, orientation, kept, seen = None, 1, [PNG_SIGNATURE], set()
    if not body.startswith(PNG_SIGNATURE):
        raise broken("not a PNG's signature")
    for kind, chunk in _chunks(body, 8, "PNG"):
        if not size:
            if kind != b"IHDR" or len(chunk) < 25:
                raise broken("truncated before its pixels")
            size = struct.unpack_from(">2I", chunk, 8)
        if kind == b"eXIf" and kind not in seen:
            orientation = _orientation(chunk[8:-4])
        if not kind.isalpha() or kind[:1].isupper() and kind not in PNG_PICTURE:
            raise broken(f"unknown chunk {kind}")
        if kind in PNG_PICTURE and (kind == b"IDAT" or kind not in seen):
            kept.append(chunk)
        seen.add(kind)
        if kind == b"IEND":
            break
    if not size:
        raise broken("truncated before its pixels")
    return Picture("PNG", *size, orientation, b"".join(kept))


def _webp(body):
    size, orientation = None, 1
    if body[8:12] != b"WEBP":
        raise broken("not a picture in RIFF")
    for kind, chunk in _chunks(body, 12, "WebP"):
        if not size:
            size = _webp_size(kind, chunk)
        if kind == b"EXIF":
            orientation = _orientation(chunk[8:].removeprefix(b"Exif\0\0"))
    if not size:
        raise broken("truncated before its pixels")
    return Picture("WEBP", *size, orientation, body)


def _webp_size(kind, chunk):
    try:
        if kind == b"VP8X":
            numbers = struct.unpack_from("<HBHB", chunk, 12)
            return 1 + numbers[0] + (numbers[1] << 16), 1 + numbers[2] + (numbers[3] << 16)
        if kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", chunk, 9)
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if kind == b"VP8 ":
            return tuple(side & 0x3FFF for side in struct.unpack_from("<2H", chunk, 14))
    except struct.error:
        pass
    raise broken("truncated before its pixels")


def _chunks(body, at, format):
    """Yields the kind and the bytes of each chunk of a PNG or WebP, the last one perhaps truncated."""
    for _ in range(MAX_PARTS):
        if at + 8 > len(body):
            return
        if format == "PNG":
            length, kind = struct.unpack_from(">I4s", body, at)
            end = at + 8 + length + 4  # a checksum follows
        else:
            kind, length = struct.unpack_from("<4sI", body, at)
            end = at + 8 + length + length % 2
        yield kind, body[at:end]
        at = end
    raise _too_many(format, "chunks", MAX_PARTS)


def _orientation(exif):
    """The orientation, 1 to 8, that EXIF data tells; 1 if they are invalid, as in browsers."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order:
        try:
            (start,) = struct.unpack_from(order + "I", exif, 4)
            (count,) = struct.unpack_from(order + "H", exif, start)
            for i in range(min(count, MAX_EXIF_ENTRIES)):
                tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * i)
                if (tag, kind) == (0x0112, 3) and 1 <= value <= 8:
                    return value
        except struct.error:
            pass
    return 1


def _too_many(name, parts, most):
    return Refused(
        422,
        f"The {name} must have at most {most:,} {parts}. Received: more. {SAVE_AGAIN}",
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
