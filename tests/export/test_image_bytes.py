"""`from_bytes` reads images as Pillow does, and broken ones do not affect the others."""

import io
import struct
import subprocess
import sys
import zlib

import keras
import numpy as np
import PIL
import pytest
from PIL import Image

from keras_encnet.data.images import read_image

if keras.backend.backend() != "tensorflow":
    pytest.skip("needs the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

from keras_encnet.export.image_bytes import label_png_from_bytes

SIZES = [(40, 48), (33, 47), (61, 34)]
EXIF = b"Exif\0\0"


def noisy(height, width, channels):
    """An image smooth enough to upsample chroma and rough enough to show every rounding."""
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, channels))
    fine = coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    return np.clip(fine + rng.integers(-20, 20, fine.shape), 0, 255).astype("uint8")


def picture(mode, size=(33, 47)):
    if mode == "CMYK":
        return Image.fromarray(noisy(*size, 4), "CMYK")
    return Image.fromarray(noisy(*size, 3)).convert(mode)


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pillow(file):
    return read_image(Image.open(io.BytesIO(file)))


def planes(images):
    """The three colours side by side as labels, so that a test sees every value."""
    return tf.concat(tf.unstack(images, axis=3), axis=2)


def function(label_map, **options):
    signature = [tf.TensorSpec((None,), tf.string)]
    return tf.function(label_png_from_bytes(label_map, **options), input_signature=signature)


@pytest.fixture(scope="module")
def from_bytes():
    return function(planes)


def pixels(answer, index=0):
    labels = np.asarray(Image.open(io.BytesIO(answer["labels_bytes"][index].numpy())))
    return np.stack(np.split(labels, 3, axis=1), axis=2)


def assert_equal(from_bytes, file):
    answer = from_bytes([file])
    assert answer["ok"].numpy().tolist() == [True]
    np.testing.assert_array_equal(pixels(answer), pillow(file))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:2:0"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:4:4", "quality": 98},
        {"progressive": True},
        {"restart_marker_rows": 1, "quality": 20},
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_pixels_are_pillows(from_bytes, mode, options, size):
    assert_equal(from_bytes, saved(picture(mode, size), "JPEG", **options))


def test_jpeg_with_chroma_halved_in_height_only(from_bytes):
    file = saved(picture("RGB", (64, 64)), "JPEG", subsampling="4:2:2")
    assert file.count(b"\1\x21\0") == 1
    assert_equal(from_bytes, file.replace(b"\1\x21\0", b"\1\x12\0"))


@pytest.mark.parametrize("options", [{}, {"subsampling": "4:2:0"}, {"progressive": True}])
@pytest.mark.parametrize("adobe", ["YCCK", "none"])
def test_cmyk_variants_that_pillow_cannot_write(from_bytes, adobe, options):
    file = saved(picture("CMYK"), "JPEG", **options)
    at = file.index(b"\xff\xee\0\x0eAdobe")
    if adobe == "none":
        file = file[:at] + file[at + 16 :]
    else:
        file = file[: at + 15] + b"\2" + file[at + 16 :]
    assert_equal(from_bytes, file)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_png_pixels_are_pillows(from_bytes, mode, size):
    assert_equal(from_bytes, saved(picture(mode, size), "PNG"))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("P", {"bits": 2}),
        ("P", {"transparency": 3}),
        ("P", {"transparency": bytes(range(4))}),
        ("L", {"transparency": 7}),
        ("RGB", {"transparency": (1, 2, 3)}),
    ],
)
def test_png_transparency_is_dropped(from_bytes, mode, options):
    image = picture("RGB").quantize(4) if mode == "P" else picture(mode)
    assert_equal(from_bytes, saved(image, "PNG", **options))


GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6
CHANNELS = {GREY: 1, COLOUR: 3, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
WHOLE = [(0, 0, 1, 1)]
ADAM7 = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header(height, width, depth=8, colour=COLOUR, interlaced=False):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def png(*chunks):
    return b"".join([b"\x89PNG\r\n\x1a\n", *chunks, chunk(b"IEND", b"")])


def handmade_png(samples, depth, colour, interlaced=False):
    height, width, _ = samples.shape
    lines = []
    for top, left, down, across in ADAM7 if interlaced else WHOLE:
        for row in samples[top::down, left::across]:
            bits = (row.reshape(-1, 1) >> np.arange(depth)[::-1]) & 1
            lines.append(b"\0" + np.packbits(bits.astype("uint8")).tobytes())
    data = zlib.compress(b"".join(lines))
    return png(header(height, width, depth, colour, interlaced), chunk(b"IDAT", data))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "depth"),
    [(GREY, 1), (GREY, 2), (GREY, 4), (GREY, 8), (COLOUR, 8)] + [(colour, 16) for colour in CHANNELS],
)
def test_png_depths_and_interlacing(from_bytes, colour, depth, interlaced):
    samples = np.random.default_rng(0).integers(0, 2**depth, (37, 41, CHANNELS[colour]))
    assert_equal(from_bytes, handmade_png(samples, depth, colour, interlaced))


def directory(order, *entries, offset=8, count=None):
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", offset)
    count = struct.pack(order + "H", len(entries) if count is None else count)
    return start.ljust(offset, b"\0") + count + b"".join(entries) + bytes(4)


def entry(order, tag, value):
    return struct.pack(order + "HHIHH", tag, 3, 1, value, 0)


def with_exif(jpeg, block, before=b""):
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(EXIF) + len(block)) + EXIF + block
    return jpeg[:2] + before + segment + jpeg[2:]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(from_bytes, orientation, order):
    width, height = entry(order, 0x0100, 47), entry(order, 0x0101, 33)
    block = directory(order, width, height, entry(order, 0x0112, orientation))
    for mode in ("RGB", "CMYK"):
        file = with_exif(saved(picture(mode), "JPEG"), block)
        assert pillow(file).shape == ((47, 33, 3) if orientation > 4 else (33, 47, 3))
        assert_equal(from_bytes, file)
    before = saved(picture("RGB"), "PNG", exif=block)
    assert b"eXIf" in before
    assert_equal(from_bytes, before)
    after = saved(picture("RGB"), "PNG")[:-12] + chunk(b"eXIf", block) + chunk(b"IEND", b"")
    assert_equal(from_bytes, after)


TURN = entry("<", 0x0112, 6)


ODD_EXIF = {
    "empty": b"",
    "cut off": b"II",
    "no entry": directory("<"),
    "invalid orientation": directory("<", entry("<", 0x0112, 9)),
    "at an odd offset": directory("<", TURN, offset=13),
    "more entries declared than present": directory("<", TURN, count=40),
    "twice": directory("<", TURN, entry("<", 0x0112, 3)),
    "neither byte order": b"XX" + directory("<", TURN)[2:],
    "directory beyond the end": b"II*\0\xff\xff\xff\xff",
    "two Exif headers": EXIF + directory("<", TURN),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", ODD_EXIF)
def test_odd_exif_is_read_as_pillow_reads_it(from_bytes, name):
    if name == "twice" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("older versions of Pillow take the last of two entries, newer ones the first")
    assert_equal(from_bytes, with_exif(saved(picture("RGB"), "JPEG"), ODD_EXIF[name]))


@pytest.mark.parametrize(
    "before",
    [b"\xff\xff\xff", b"\xff\xfe\0\x08Exif\0\0", b"\xff\xe1\0\x06Exif"],
    ids=["fill bytes", "a comment", "another APP1"],
)
def test_exif_is_found_after_other_bytes(from_bytes, before):
    file = with_exif(saved(picture("RGB"), "JPEG"), directory("<", TURN), before)
    assert pillow(file).shape == (47, 33, 3)
    assert_equal(from_bytes, file)


def broken_files():
    jpeg, image = saved(picture("RGB"), "JPEG"), saved(picture("RGB"), "PNG")
    huge = [header(50_000, 50_000), chunk(b"IDAT", zlib.compress(bytes(9)))]
    small_first = chunk(b"tEXt", struct.pack(">II", 40, 40))
    return {
        "empty": b"",
        "text": b"no image",
        "GIF": saved(picture("RGB"), "GIF"),
        "BMP": saved(picture("RGB"), "BMP"),
        "start of a JPEG": jpeg[:3],
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "JPEG without its last byte": jpeg[:-1],
        "half a CMYK JPEG": saved(picture("CMYK"), "JPEG")[:-300],
        "JPEG without a size": jpeg.replace(b"\0\x21\0\x2f\3", b"\0\0\0\0\3"),
        "start of a PNG": image[:8],
        "half a PNG": image[: len(image) // 2],
        "PNG with a wrong checksum": image.replace(b"IHDR\0\0\0\x2f", b"IHDR\0\0\0\x2e"),
        "PNG of 50,000 x 50,000": png(*huge),
        "the same after a chunk with a small size": png(small_first, *huge),
        "JPEG of 50,000 x 50,000": jpeg.replace(b"\0\x21\0\x2f\3", b"\xc3\x50\xc3\x50\3"),
        "a side of 31": saved(picture("RGB", (31, 64)), "PNG"),
        "a side of 31, JPEG": saved(picture("RGB", (64, 31)), "JPEG"),
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_broken_image_does_not_fail_the_others(from_bytes, name):
    good = saved(picture("RGB"), "JPEG"), saved(picture("L", (64, 40)), "PNG")
    answer = from_bytes([good[0], broken_files()[name], good[1]])
    assert answer["ok"].numpy().tolist() == [True, False, True]
    assert answer["labels_bytes"][1].numpy() == b""
    np.testing.assert_array_equal(pixels(answer, 0), pillow(good[0]))
    np.testing.assert_array_equal(pixels(answer, 2), pillow(good[1]))


def test_size_limits_are_inclusive():
    images = [Image.new("RGB", size) for size in [(20, 30), (19, 30), (20, 31)]]
    files = [saved(image, format) for format in ("JPEG", "PNG") for image in images]
    answer = function(planes, min_size=20, max_pixels=600)(files)
    assert answer["ok"].numpy().tolist() == [True, False, False] * 2


def test_images_with_too_many_pixels_are_not_decoded(from_bytes):
    resource = pytest.importorskip("resource")
    side = 13_000
    data = zlib.compress(bytes(side * (1 + side // 8)), 1)
    bomb = png(header(side, side, 1, GREY), chunk(b"IDAT", data))
    assert len(bomb) < 200_000
    from_bytes([b""])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not from_bytes([bomb])["ok"][0]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 200e6  # decoded: 507e6


def test_label_files_are_grey_with_8_or_16_bits(from_bytes):
    def wide(images):
        return tf.cast(images[..., 0], tf.uint16) * 257

    file = saved(picture("L"), "PNG")
    narrow = from_bytes([file])["labels_bytes"][0].numpy()
    assert narrow[24:26] == bytes([8, GREY])
    labels = function(wide)([file])["labels_bytes"][0].numpy()
    assert labels[24:26] == bytes([16, GREY])
    expected = pillow(file)[..., 0].astype("uint16") * 257
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(labels))), expected)


def test_an_empty_batch(from_bytes):
    answer = from_bytes(tf.zeros((0,), tf.string))
    assert answer["labels_bytes"].shape == answer["ok"].shape == (0,)


SERVER = """
import pathlib
import sys

sys.modules.update(dict.fromkeys(["keras", "keras_encnet", "PIL"]))  # None makes their import fail

import tensorflow as tf

folder = pathlib.Path(sys.argv[1])
files = [path.read_bytes() for path in sorted(folder.glob("in*"))]
signature = tf.saved_model.load(str(folder / "model")).signatures["from_bytes"]
answer = signature(image_bytes=tf.constant(files))
print(answer["ok"].numpy().tolist())
for index, labels in enumerate(answer["labels_bytes"].numpy()):
    (folder / f"out{index}").write_bytes(labels)
"""


def test_a_saved_model_runs_without_keras_and_this_package(tmp_path):
    module = tf.Module()
    module.shift = tf.Variable(3, dtype="uint8")

    def shifted(images):
        return planes(images) + module.shift

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    def from_bytes(image_bytes):
        return label_png_from_bytes(shifted)(image_bytes)

    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"from_bytes": from_bytes})
    rotated = with_exif(saved(picture("CMYK"), "JPEG"), directory(">", entry(">", 0x0112, 8)))
    files = [saved(picture("RGB", (50, 70)), "JPEG"), b"no image", rotated]
    for index, file in enumerate(files):
        (tmp_path / f"in{index}").write_bytes(file)
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[True, False, True]\n"
    assert (tmp_path / "out1").read_bytes() == b""
    for index in (0, 2):
        labels = np.asarray(Image.open(tmp_path / f"out{index}"))
        expected = np.concatenate(np.moveaxis(pillow(files[index]), 2, 0), axis=1) + np.uint8(3)
        np.testing.assert_array_equal(labels, expected)
