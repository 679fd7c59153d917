"""Whatever a file contains, it gives an image or an error that names it.

`pytest tests/data/test_fuzz_images.py --fuzz 100000 --fuzz-seed 1` tries more files.
"""

import io
import resource
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data import image_files
from keras_encnet.data.image_files import image_size, orientation
from keras_encnet.data.images import read_image, read_mask

# Far fewer than in use, to be fast: the limit is what holds memory down.
MAX_PIXELS = 2**20
MAX_SECONDS = 5
MAX_MEGABYTES = 500
EXTREMES = (b"\0\0", b"\xff\xff", b"\x7f\xff", b"\x80\x00", b"\0\1", b"\1\0", b"\x40\0")
PALETTE = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]


def seeds():
    """Valid files of every format and kind that Pillow writes."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (5, 6, 3), dtype="uint8").repeat(4, 0).repeat(4, 1)
    rgb = Image.fromarray(blocks)
    grey, few = rgb.convert("L"), rgb.quantize(4)
    deep = Image.fromarray(blocks[..., 0].astype("uint16") * 257)
    wide = Image.fromarray(blocks[..., 0].astype("int32") * 200)
    floats = Image.fromarray(blocks[..., 0].astype("float32"))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x9286] = 6, "maker", b"comment"
    frames = {"save_all": True, "append_images": [rgb.rotate(90), grey]}
    yield from (
        written(rgb, "JPEG"),
        written(rgb, "JPEG", progressive=True, exif=exif),
        written(grey, "JPEG", comment=b"a comment"),
        written(rgb.convert("CMYK"), "JPEG"),
        written(rgb, "MPO", **frames),
        *(written(image, "PNG") for image in (rgb, grey, few, deep, grey.convert("1"))),
        written(rgb.convert("RGBA"), "PNG", exif=exif),
        written(few, "PNG", transparency=1, bits=2),
        written(rgb, "PNG", **frames),
        *(written(image, "TIFF") for image in (rgb, grey, few, deep, wide, floats)),
        written(rgb, "TIFF", compression="tiff_lzw", exif=exif),
        written(rgb, "TIFF", compression="jpeg"),
        written(grey.convert("1"), "TIFF", compression="group4"),
        written(deep, "TIFF", compression="tiff_adobe_deflate", big_tiff=True),
        *(written(image, "BMP") for image in (rgb, grey, few)),
        written(few, "GIF"),
        written(few, "GIF", **frames),
        *(written(image, "PPM") for image in (rgb, grey, deep, floats, grey.convert("1"))),
        b"P3\n2 2\n255\n" + b"1 2 3 " * 4,
        written(rgb, "WEBP"),
        written(rgb.convert("RGBA"), "WEBP", lossless=True, exif=exif),
        written(rgb, "WEBP", **frames),
    )
    if "AVIF" in Image.SAVE:
        yield written(rgb, "AVIF", exif=exif)


def written(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def mutated(rng, files):
    """A file with one to three changes."""
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data)))
        if rng.random() < 0.5:
            at = min(at, int(rng.integers(64)))  # the header
        change = rng.integers(6)
        if change == 0:
            data[at] = rng.integers(256)
        elif change == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif change == 2:  # sizes and counts
            extreme = EXTREMES[rng.integers(len(EXTREMES))] * int(rng.integers(1, 3))
            data[at : at + len(extreme)] = extreme
        elif change == 3:
            del data[max(1, at) :]
        elif change == 4:
            data[at : at + int(rng.integers(1, 9))] = b""
        else:  # a part of another file
            other = files[rng.integers(len(files))]
            start = int(rng.integers(len(other)))
            data[at : at + int(rng.integers(2) * 64)] = other[start : start + int(rng.integers(1, 200))]
        data = data or bytearray(b"\0")
    if data[:4] == b"\x89PNG" and rng.random() < 0.8:
        data = with_valid_checksums(data)
    return bytes(data)


def with_valid_checksums(data):
    """A PNG file whose chunks have valid checksums, so that Pillow reads them."""
    data, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 <= len(data):
            struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


def tried(read, path):
    """What `read` returns, or `None` after an error that names the file."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        assert path.name in str(error), f"{type(error).__name__}: {error}"


def check(path):
    size, image = tried(image_size, path), tried(read_image, path)
    if image is not None:
        assert image.dtype == "uint8" and image.shape == (*size, 3)
    mask = tried(read_mask, path)
    assert mask is None or (mask.ndim == 2 and mask.dtype in ("uint8", "int32"))
    mask = tried(lambda path: read_mask(path, palette=PALETTE), path)
    assert mask is None or (mask.ndim == 2 and mask.dtype in ("uint8", "int32"))
    assert tried(orientation, path) in (None, *range(1, 9))


def test_every_file_gives_an_image_or_an_error_that_names_it(fuzz, tmp_path, monkeypatch):
    count, seed = fuzz
    monkeypatch.setattr(image_files, "MAX_PIXELS", MAX_PIXELS)
    files = list(seeds())
    path = tmp_path / "damaged.img"
    for data in files:
        path.write_bytes(data)
        assert tried(read_image, path) is not None, data[:16]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(count):
        data = mutated(np.random.default_rng([seed, index]), files)
        path.write_bytes(data)
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(path)
            seconds = time.perf_counter() - start
            assert seconds < MAX_SECONDS, f"{seconds:.1f} s"
            megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            assert megabytes < MAX_MEGABYTES, f"{megabytes:.0f} MB more"
        except Exception as error:
            pytest.fail(
                f"--fuzz-seed {seed}, input {index} ({len(data)} bytes, {data[:16]!r}, in {path}): "
                f"{type(error).__name__}: {error}"
            )
