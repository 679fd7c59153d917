"""Files of every mode are read correctly, and resizing agrees with OpenCV.

tests/golden/opencv.npz has two random arrays of 9×13, `source` and `labels`, and the results of
`cv2.resize(array, (width, height), interpolation=...)` of OpenCV 5.0: INTER_LINEAR of `source` as
`image_<height>x<width>`, INTER_NEAREST of `labels` as `labels_<height>x<width>`.
"""

import io
import pathlib
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data import image_files
from keras_encnet.data.conventions import check_palette, class_palette
from keras_encnet.data.image_files import file_format, image_size, open_image, orientation
from keras_encnet.data.images import read_image, read_mask
from keras_encnet.data.pairs import Pairs
from keras_encnet.data.resizing import resize_image, resize_mask

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "opencv.npz"
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (36, 40, 3), dtype="uint8")
LABELS = RNG.integers(0, 4, (6, 8), dtype="uint8")


def saved(path, image, **options):
    image.save(path, **options)
    return path


def png(width, height, bits, colour_type, rows):
    """A PNG file packed by hand after the PNG specification; `rows` have their filter bytes."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def grey_tiff(width, height, bits, data):
    """An uncompressed grey TIFF file, packed by hand after the TIFF 6.0 specification."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


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
    for grey in (RGB[..., 0], RGB[..., 0] // 2 + 99):
        path = saved(tmp_path / f"x.{ending}", Image.fromarray(grey.astype("uint16") * 257))
        np.testing.assert_array_equal(read_image(path), grey[..., None].repeat(3, axis=2))


def test_cmyk_is_read_as_its_colours(tmp_path):
    ink = Image.new("CMYK", (40, 36), (255, 0, 0, 0))
    path = saved(tmp_path / "x.jpg", ink, quality=100)
    assert np.abs(read_image(path).astype(int) - (0, 255, 255)).max() <= 2


# By the EXIF standard: the orientation says which side of the scene the stored row 0 is.
@pytest.mark.parametrize(
    "turned, upright",
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
def test_exif_orientation_is_applied(tmp_path, turned, upright):
    exif = Image.Exif()
    exif[0x0112] = turned
    for ending in ("png", "tif", "webp"):
        options = {"lossless": True} if ending == "webp" else {}
        path = saved(tmp_path / f"x.{ending}", Image.fromarray(RGB), exif=exif, **options)
        np.testing.assert_array_equal(read_image(path), upright(RGB))
        assert image_size(path) == upright(RGB).shape[:2]
    assert orientation(tmp_path / "x.png") == turned


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


SCALED = RGB / np.float32(255)
CONTAINERS = {
    "RGB array": lambda here, grey: np.dstack([grey] * 3),
    "grey array": lambda here, grey: grey,
    "RGBA array": lambda here, grey: np.dstack([grey] * 4),
    "PIL image": lambda here, grey: Image.fromarray(grey),
    "TIFF file": lambda here, grey: saved(here / "grey.tif", Image.fromarray(grey)),
}


@pytest.fixture(params=CONTAINERS)
def contained(request, tmp_path):
    """Puts the values of a grey image into a container."""
    return lambda grey: CONTAINERS[request.param](tmp_path, grey)


def test_floats_in_0_to_1_are_a_warning_in_every_container(contained):
    with pytest.warns(UserWarning, match=r"\[0, 255\].*Received: floats up to 1, .*multiply by 255"):
        read_image(contained(SCALED[..., 0]))


@pytest.mark.parametrize(
    "grey, message",
    [
        (SCALED[..., 0] * 70000, r"\[0, 255\]. because.*from 0 to 70000"),
        (SCALED[..., 0] * 2 - 1, r"\[0, 255\], because.*from -1 to 1"),
        (RGB[..., 0].astype("int32") * 70000, r"\[0, 255\], because.*from 0 to 1.785e\+07"),
        (RGB[..., 0].astype("int32") - 1, r"\[0, 255\], because.*from -1 to 254"),
        (np.where(RGB[..., 0] > 9, SCALED[..., 0], np.nan), "NaN or infinity"),
        (np.where(RGB[..., 0] > 9, SCALED[..., 0], np.inf), "NaN or infinity"),
    ],
)
def test_values_outside_are_an_error_in_every_container(contained, grey, message):
    source = contained(grey)
    named = "grey.tif.*" if isinstance(source, pathlib.Path) else ""
    with pytest.raises(ValueError, match=named + message):
        read_image(source)


def test_floats_and_integers_from_0_to_255_are_taken_as_they_are(contained):
    for dtype in ("float32", "int32", "uint16"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = read_image(contained(RGB[..., 0].astype(dtype)))
        np.testing.assert_array_equal(image, RGB[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("colour", [True, False])
def test_12_bits_in_a_16_bit_file_are_a_warning(tmp_path, colour):
    values = (RGB if colour else RGB[..., 0]).astype(">u2") * 16  # up to 4080
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    path = tmp_path / "x.png"
    path.write_bytes(png(40, 36, 16, 2 if colour else 0, rows))
    with pytest.warns(UserWarning, match="x.png.*16 bits.*nearly black.*less than 4096 of 65535"):
        read_image(path)


def test_a_colour_space_that_cannot_be_converted_is_named():
    with pytest.raises(ValueError, match="the image.*conversion from La"):
        read_image(Image.new("La", (8, 8)))


def test_eps_is_refused_whatever_its_ending(tmp_path):
    # Pillow would start Ghostscript.
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n")
    for read in (read_image, read_mask, image_size):
        with pytest.raises(ValueError, match="photo.jpg.*not one of JPEG, PNG.*Convert it"):
            read(path)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "bmp", "gif", "ppm", "webp"])
def test_the_limit_of_pixels_is_our_own(tmp_path, monkeypatch, ending):
    path = saved(tmp_path / f"x.{ending}", Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 36 * 40 * 2 // 3)  # Pillow warns of this image
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).shape == RGB.shape
    monkeypatch.setattr(image_files, "MAX_PIXELS", 36 * 40 - 1)
    for read in (read_image, read_mask, image_size):
        with pytest.raises(ValueError, match=rf"megapixels or fewer.*x.{ending}', 36×40"):
            read(path)


def test_200_megapixels_are_opened_and_400_are_refused_before_decoding(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(20000, 10000, 1, 0, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_image(path) as image:
            assert image.size == (20000, 10000)
    path.write_bytes(png(20000, 20000, 1, 0, b""))
    with pytest.raises(ValueError, match="268 megapixels or fewer.*x.png.*20000×20000.*400 megap"):
        image_size(path)


def test_a_file_that_holds_several_jpegs_is_read_as_the_first(tmp_path):
    options = {"save_all": True, "append_images": [Image.new("RGB", (40, 36))], "quality": 95}
    path = saved(tmp_path / "x.mpo", Image.fromarray(RGB), **options)
    assert file_format(path) == "JPEG"
    first = saved(tmp_path / "x.jpg", Image.fromarray(RGB), quality=95)
    np.testing.assert_array_equal(read_image(path), read_image(first))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_a_file_that_is_cut_is_named(tmp_path, ending):
    path = saved(tmp_path / f"x.{ending}", Image.fromarray(RGB))
    complete = path.read_bytes()
    for length in (1, 7, 20, 60, 150):
        path.write_bytes(complete[:length])
        for read in (read_image, read_mask, image_size):
            try:
                read(path)
            except ValueError as error:
                assert "x." + ending in str(error)
            else:
                assert read is image_size and length > 20  # the header may be complete
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"x.{ending}.*empty"):
        image_size(path)
    with pytest.raises(ValueError, match="a directory"):
        read_image(tmp_path)


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
    # 8 labels, packed by hand after section 7.2 of the PNG specification.
    row = {2: bytes([0b00011011, 0b11100100]), 4: bytes([0x01, 0x23, 0x45, 0xF0])}[bits]
    labels = {2: [0, 1, 2, 3, 3, 2, 1, 0], 4: [0, 1, 2, 3, 4, 5, 15, 0]}[bits]
    path = tmp_path / "x.png"
    path.write_bytes(png(8, 1, bits, 0, b"\0" + row))
    assert read_mask(path).tolist() == [labels]
    path.write_bytes(grey_tiff(8, 1, bits, row))
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


def test_indexed_files_with_the_same_palette_are_read_by_index(tmp_path):
    # Two classes may have one colour, as in ADE20K. The indices are the labels all the same.
    palette = [(9, 9, 9), (200, 0, 0), (9, 9, 9), (0, 0, 7)]
    image = Image.fromarray(LABELS)
    image.putpalette(np.array(palette, "uint8").tobytes())
    path = saved(tmp_path / "x.png", image)
    np.testing.assert_array_equal(read_mask(path, palette=palette), LABELS)
    saved(path, image.convert("RGB"))
    with pytest.raises(ValueError, match=r"different colours.*\(9, 9, 9\).*x.png.*labels 0, 2"):
        read_mask(path, palette=palette)


def test_indexed_files_with_other_colours_are_explained(tmp_path):
    path = saved(tmp_path / "x.png", Image.new("P", (8, 4), 1))
    with pytest.raises(
        ValueError, match="x.png.*indexed, and its indices, up to 1.*leave out `palette`"
    ):
        read_mask(path, palette=[(9, 9, 9), (200, 0, 0)])
    assert set(read_mask(path).ravel()) == {1}


@pytest.mark.parametrize("value, shown", [(0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf"), (1e10, "1e")])
def test_masks_of_floats_must_have_integers(tmp_path, value, shown):
    path = saved(tmp_path / "x.tif", Image.fromarray(np.full((4, 4), value, "float32")))
    with pytest.raises(ValueError, match=f"x.tif.*integer labels. Received: {shown}"):
        read_mask(path)


@pytest.mark.parametrize(
    "use",
    [
        check_palette,
        lambda palette: class_palette(2, palette),
        lambda palette: Pairs([], palette=palette),
        lambda palette: read_mask(Image.new("RGB", (2, 2)), palette=palette),
    ],
)
def test_palettes_in_0_to_1_are_refused_wherever_they_are_given(use):
    with pytest.raises(ValueError, match=r"`palette`.*\[0, 255\].*floats from 0 to 1.*255"):
        use([(0.0, 0.5, 1.0), (1.0, 0.0, 0.0)])


@pytest.mark.parametrize(
    "palette, message",
    [
        ([(0, 0, 256)], "integers in.*Received: 256"),
        ([(0, -1, 0)], "Received: -1"),
        ([(0, 0.5, 9)], "Received: 0.5"),
        ([(0, np.nan, 9)], "Received: nan"),
        ([0, 0, 0], r"shape \(3,\)"),
        ([(0, 0, 0, 1)], r"shape \(1, 4\)"),
        ([(0, 0, 0), (1,)], r"Received: \[\(0, 0, 0\), \(1,\)\]"),
        (["red"], "Received: .'red'"),
        ([], r"shape \(0,\)"),
    ],
)
def test_invalid_palettes(palette, message):
    with pytest.raises(ValueError, match="`palette` must have.*" + message):
        check_palette(palette)


def test_valid_palettes():
    assert check_palette([(0, 1, 1)]).tolist() == [[0, 1, 1]]  # integers are not scaled
    assert check_palette(np.array([[7.0, 200, 0]])).dtype == "uint8"
    with pytest.raises(ValueError, match="each of the 3 classes. Received: 1 colours"):
        check_palette([(0, 0, 0)], num_classes=3)


@pytest.mark.parametrize("size", [(5, 7), (9, 26), (18, 26), (23, 8), (4, 6)])
def test_resizing_agrees_with_opencv(size):
    golden = np.load(GOLDEN)
    height, width = size
    image = resize_image(golden["source"], height, width)
    np.testing.assert_array_equal(image, golden[f"image_{height}x{width}"])
    mask = resize_mask(golden["labels"], height, width)
    np.testing.assert_array_equal(mask, golden[f"labels_{height}x{width}"])


@pytest.mark.parametrize("size", [(25, 50), (90, 70), (36, 40)])
def test_a_window_is_a_part_of_the_resized_image(size):
    top, left, rows, columns = window = (3, 11, 20, 17)
    part = (slice(top, top + rows), slice(left, left + columns))
    image, mask = resize_image(RGB, *size), resize_mask(RGB[..., 0], *size)
    np.testing.assert_array_equal(resize_image(RGB, *size, window), image[part])
    np.testing.assert_array_equal(resize_mask(RGB[..., 0], *size, window), mask[part])
