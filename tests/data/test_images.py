"""Files of every mode are read correctly, and resizing agrees with OpenCV.

tests/golden/opencv.npz has two random arrays of 9×13, `source` and `labels`, and the results of
`cv2.resize(array, (width, height), interpolation=...)` of OpenCV 5.0: INTER_LINEAR of `source` as
`image_<height>x<width>`, INTER_NEAREST of `labels` as `labels_<height>x<width>`.
"""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data.images import image_size, read_image, read_mask, resize_image, resize_mask

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "opencv.npz"
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (36, 40, 3), dtype="uint8")
LABELS = RNG.integers(0, 4, (6, 8), dtype="uint8")


def saved(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "P"])
def test_colour_images_keep_their_colours(tmp_path, mode):
    few = (RGB // 128 * 128).astype("uint8")  # eight colours, which fit into a palette
    image = Image.fromarray(few)
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(RGB[..., 0]))
    path = saved(tmp_path / ("x.tif" if mode == "RGBX" else "x.png"), image)
    np.testing.assert_array_equal(read_image(path), few)


def test_palette_with_transparency_keeps_its_colours(tmp_path):
    image = Image.fromarray(RGB // 128 * 128).quantize(8)
    path = saved(tmp_path / "x.png", image, transparency=3)
    np.testing.assert_array_equal(read_image(path), RGB // 128 * 128)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_becomes_three_equal_channels(tmp_path, mode):
    path = saved(tmp_path / "x.png", Image.fromarray(RGB[..., 0]).convert(mode))
    np.testing.assert_array_equal(read_image(path), RGB[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_scaled_to_8(tmp_path, ending):
    deep = RGB[..., 0].astype("uint16") * 257
    path = saved(tmp_path / f"x.{ending}", Image.fromarray(deep))
    np.testing.assert_array_equal(read_image(path), RGB[..., :1].repeat(3, axis=2))


def test_cmyk_is_read_as_its_colours(tmp_path):
    ink = Image.new("CMYK", (40, 36), (255, 0, 0, 0))
    path = saved(tmp_path / "x.jpg", ink, quality=100)
    assert np.abs(read_image(path).astype(int) - (0, 255, 255)).max() <= 2


# By the EXIF standard: the orientation says which side of the scene the stored row 0 is.
@pytest.mark.parametrize(
    "orientation, upright",
    [
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda x: np.rot90(x)),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "x.png", Image.fromarray(RGB), exif=exif)
    np.testing.assert_array_equal(read_image(path), upright(RGB))
    assert image_size(path) == upright(RGB).shape[:2]


def test_arrays_and_pil_images_are_read():
    np.testing.assert_array_equal(read_image(Image.fromarray(RGB)), RGB)
    np.testing.assert_array_equal(read_image(RGB), RGB)
    np.testing.assert_array_equal(read_image(np.full((2, 2), 7)), np.full((2, 2, 3), 7))


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((2, 40, 40, 3)), "one image at a time"),
        (np.zeros((3, 40, 40)), "channels last"),
        (np.full((40, 40, 3), np.nan), "NaN"),
        (np.full((40, 40, 3), 65535, "uint16"), "65535"),
        (np.full((40, 40, 3), "a"), "dtype"),
    ],
)
def test_invalid_arrays_are_errors(array, message):
    with pytest.raises(ValueError, match=message):
        read_image(array)


def test_a_truncated_file_is_named(tmp_path):
    complete = io.BytesIO()
    Image.fromarray(RGB).save(complete, "JPEG")
    path = tmp_path / "half.jpg"
    path.write_bytes(complete.getvalue()[: len(complete.getvalue()) // 2])
    with pytest.raises(ValueError, match="half.jpg.*truncated"):
        read_image(path)
    complete = io.BytesIO()
    Image.fromarray(RGB[..., 0]).save(complete, "PNG")
    path = tmp_path / "half.png"
    path.write_bytes(complete.getvalue()[: len(complete.getvalue()) // 2])
    with pytest.raises(ValueError, match="half.png.*truncated"):
        read_mask(path)


def test_a_file_that_is_not_an_image_is_named(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("not an image")
    with pytest.raises(ValueError, match="notes.jpg.*not an image"):
        read_image(path)
    with pytest.raises(FileNotFoundError, match="gone.jpg"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("mode", ["L", "P", "I", "I;16", "1", "RGB", "LA"])
def test_masks_of_every_mode_are_read_as_labels(tmp_path, mode):
    labels = LABELS % 2 if mode == "1" else LABELS
    if mode in ("I", "I;16"):
        image = Image.fromarray(labels.astype({"I": "int32", "I;16": "uint16"}[mode]))
    elif mode == "1":
        image = Image.fromarray(labels.astype(bool))
    elif mode == "P":
        image = Image.fromarray(labels)
        image.putpalette([200, 0, 0, 0, 7, 0, 0, 0, 9, 40, 40, 40])
        assert image.mode == "P"
    else:
        image = Image.fromarray(labels).convert(mode)
    path = saved(tmp_path / ("x.tif" if mode == "I" else "x.png"), image)
    mask = read_mask(path)
    np.testing.assert_array_equal(mask, labels)
    assert mask.dtype == ("int32" if mode in ("I", "I;16") else "uint8")


def test_labels_above_255_are_kept(tmp_path):
    labels = LABELS.astype("uint16") * 100
    path = saved(tmp_path / "x.png", Image.fromarray(labels))
    np.testing.assert_array_equal(read_mask(path), labels)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_files_of_few_bits_are_read_as_labels(tmp_path, bits):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    # 8 labels, packed by hand after section 7.2 of the PNG specification.
    row = {2: bytes([0b00011011, 0b11100100]), 4: bytes([0x01, 0x23, 0x45, 0xF0])}[bits]
    labels = {2: [0, 1, 2, 3, 3, 2, 1, 0], 4: [0, 1, 2, 3, 4, 5, 15, 0]}[bits]
    path = tmp_path / "x.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )
    assert read_mask(path).tolist() == [labels]


def test_colour_masks_are_read_with_a_palette(tmp_path):
    palette = np.array([(128, 0, 0), (0, 128, 192), (0, 0, 0), (255, 255, 255)], "uint8")
    rgb = saved(tmp_path / "rgb.png", Image.fromarray(palette[LABELS]))
    np.testing.assert_array_equal(read_mask(rgb, palette=palette), LABELS)
    quantized = saved(tmp_path / "p.png", Image.fromarray(palette[LABELS]).quantize(4))
    np.testing.assert_array_equal(read_mask(quantized, palette=palette.tolist()), LABELS)


def test_colours_that_are_not_in_the_palette_are_named(tmp_path):
    path = saved(tmp_path / "mask.png", Image.new("RGB", (8, 4), (1, 2, 3)))
    with pytest.raises(ValueError, match=r"mask.png.*\(1, 2, 3\) in 32 pixels"):
        read_mask(path, palette=[(0, 0, 0), (9, 9, 9)])
    with pytest.raises(ValueError, match=r"mask.png.*Received: colours.*palette="):
        read_mask(path)


@pytest.mark.parametrize("size", [(5, 7), (9, 26), (18, 26), (23, 8), (4, 6)])
def test_resizing_agrees_with_opencv(size):
    golden = np.load(GOLDEN)
    height, width = size
    image = resize_image(golden["source"], height, width)
    expected = golden[f"image_{height}x{width}"]
    assert np.abs(image.astype(int) - expected).max() <= 1
    mask = resize_mask(golden["labels"], height, width)
    np.testing.assert_array_equal(mask, golden[f"labels_{height}x{width}"])


@pytest.mark.parametrize("size", [(25, 50), (90, 70), (36, 40)])
def test_a_window_is_a_part_of_the_resized_image(size):
    top, left, rows, columns = window = (3, 11, 20, 17)
    part = (slice(top, top + rows), slice(left, left + columns))
    image, mask = resize_image(RGB, *size), resize_mask(RGB[..., 0], *size)
    np.testing.assert_array_equal(resize_image(RGB, *size, window), image[part])
    np.testing.assert_array_equal(resize_mask(RGB[..., 0], *size, window), mask[part])


def test_strips_do_not_change_the_result(monkeypatch):
    at_once = resize_image(RGB, 90, 70)
    monkeypatch.setattr("keras_encnet.data.images.STRIP", 1)
    np.testing.assert_array_equal(resize_image(RGB, 90, 70), at_once)
