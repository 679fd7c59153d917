import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data.annotations.rle import from_kaggle_rle
from keras_encnet.inference import Segmentation

LABELS = ["sky", "road", "car", "tree"]
PALETTE = [[10, 20, 30], [128, 64, 128], [0, 0, 142], [107, 142, 35]]


def example(labels=LABELS, palette=PALETTE, height=48, width=64):
    """Half road, three eighths sky, one eighth tree; no car."""
    label_map = np.full((height, width), 1, "uint8")
    label_map[: height // 2] = 0
    label_map[: height // 2, : width // 4] = 3
    image = np.full((height, width, 3), 100, "uint8")
    return Segmentation(image, label_map, labels, palette, np.linspace(0, 1, len(labels)))


def test_attributes_and_repr():
    result = example()
    assert result.labels == ("sky", "road", "car", "tree")
    assert result.palette.dtype == "uint8" and result.palette.tolist() == PALETTE
    assert result.presence.dtype == "float32" and result.presence.shape == (4,)
    assert repr(result) == "<Segmentation 48×64, 4 classes: road 50 %, sky 38 %, tree 12 %>"


def test_areas_are_fractions_largest_first_without_absent_classes():
    areas = example().areas()
    assert list(areas.items()) == [("road", 0.5), ("sky", 0.375), ("tree", 0.125)]
    assert all(type(area) is float for area in areas.values())
    assert example(labels=["sky", "road", "car", "sky"]).areas() == {"sky": 0.5, "road": 0.5}


def test_saved_png_holds_the_label_map_and_the_palette(tmp_path):
    result = example()
    result.save(tmp_path / "x.png")
    result.save(str(tmp_path / "y.PNG"))
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), result.label_map)
        assert picture.getpalette()[:12] == sum(PALETTE, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png", "y.PNG"]
    assert (tmp_path / "x.png").read_bytes()[24:26] == bytes([8, 3])  # eight bits, palette


@pytest.mark.parametrize("classes, mode", [(256, "P"), (300, "I;16")])
def test_label_maps_of_more_than_256_classes_are_saved_as_16_bit_grey(tmp_path, classes, mode):
    label_map = (np.arange(40 * 40) % classes).reshape(40, 40).astype("uint16")
    names = [str(i) for i in range(classes)]
    Segmentation(np.zeros((40, 40, 3), "uint8"), label_map, names).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.mode == mode
        np.testing.assert_array_equal(np.asarray(picture), label_map)


def test_a_failed_save_keeps_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    example().save(path)
    before = path.read_bytes()

    def fail(self, file, **_):
        with open(file, "wb") as half:
            half.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        example().save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    assert path.read_bytes() == before


def test_threads_that_save_to_one_path_leave_one_complete_file(tmp_path):
    path, count = tmp_path / "x.png", 8
    start = threading.Barrier(count)
    one_class = [np.full((100, 100), i, "uint8") for i in range(count)]

    def save(label_map):
        result = Segmentation(np.zeros((100, 100, 3), "uint8"), label_map, list("abcdefgh"))
        start.wait()
        for _ in range(20):
            result.save(path)
            with Image.open(path) as picture:
                found = np.asarray(picture)
            assert found.shape == (100, 100) and len(np.unique(found)) == 1

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(save, one_class))
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_present_classes_are_named_most_likely_first():
    image, label_map = np.zeros((40, 40, 3), "uint8"), np.zeros((40, 40), "uint8")
    presence = [0.25, 0.5, 0.875, 1.0]
    result = Segmentation(image, label_map, LABELS, PALETTE, presence)
    assert list(result.present().items()) == [("tree", 1.0), ("car", 0.875), ("road", 0.5)]
    assert list(result.present(0)) == ["tree", "car", "road", "sky"]
    assert result.present(threshold=1) == {"tree": 1.0}
    assert all(type(value) is float for value in result.present().values())
    # Of classes with one name, the more likely one.
    twice = Segmentation(image, label_map, ["sky", "road", "sky", "tree"], PALETTE, presence)
    assert twice.present() == {"tree": 1.0, "sky": 0.875, "road": 0.5}


def confident(labels=("sky", "road", "car"), **maps):
    """Four pixels of road, two of sky."""
    label_map = np.array([[0, 1, 1], [1, 1, 0]], "uint8")
    maps = {"confidence": [[0.5, 1, 0.75], [0.25, 0.5, 1]]} | maps
    image = np.full((2, 3, 3), 100, "uint8")
    return Segmentation(image, label_map, labels, [[0, 0, 0], [200, 0, 0], [9, 9, 9]], **maps)


def test_confidences_are_means_of_each_class_surest_first():
    # By hand: sky (0.5 + 1) / 2, road (1 + 0.75 + 0.25 + 0.5) / 4.
    result = confident()
    assert list(result.confidences().items()) == [("sky", 0.75), ("road", 0.625)]
    assert all(type(mean) is float for mean in result.confidences().values())
    assert result.confidence.dtype == "float32" and result.entropy is None
    # Of classes with one name, the mean over the pixels of both.
    assert confident(["sky", "sky", "car"]).confidences() == {"sky": pytest.approx(4 / 6)}
    for wanted in (Segmentation.confidences, lambda result: result.overlay(confidence=True)):
        with pytest.raises(ValueError, match="confidence=None.*`confidence=True` to `segment`"):
            wanted(example())


def test_the_mean_confidence_of_a_large_area_is_exact():
    size = 3000, 4000
    sure = np.full(size, 0.1, "float32")
    result = Segmentation(
        np.zeros((*size, 3), "uint8"), np.zeros(size, "uint8"), ["sky"], confidence=sure
    )
    # Sums in float32 would be off from the fourth digit on.
    assert result.confidences()["sky"] == pytest.approx(0.1, abs=1e-8)


def test_colours_fade_where_the_class_is_uncertain():
    picture = np.asarray(confident().overlay(alpha=0.5, legend=False, confidence=True))
    # By hand: a colour's weight is 0.5 times the confidence, that of the image, 100, the rest.
    assert picture[0].tolist() == [[75, 75, 75], [150, 50, 50], [138, 62, 62]]
    assert confident().overlay(confidence=True).height > 2  # with the legend
    plain = np.asarray(confident().overlay(alpha=0.5, legend=False))
    assert plain[0].tolist() == [[50, 50, 50], [150, 50, 50], [150, 50, 50]]


def test_run_length_codes_count_from_1_down_the_columns():
    # By hand: the columns are sky road, road road, road sky.
    assert confident().to_rle() == {"sky": "1 1 6 1", "road": "2 4"}
    assert confident(["sky", "road", "sky"]).to_rle() == {"sky": "1 1 6 1", "road": "2 4"}
    assert confident(["sky", "sky", "car"]).to_rle() == {"sky": "1 6"}
    result = example()
    codes = result.to_rle()
    assert list(codes) == ["sky", "road", "tree"]
    for i, label in enumerate(LABELS):
        mask = from_kaggle_rle(codes.get(label, ""), *result.label_map.shape)
        np.testing.assert_array_equal(mask, result.label_map == i)


def test_present_needs_presence_and_a_probability():
    result = example()
    for threshold in (-0.1, 50, float("nan")):
        with pytest.raises(ValueError, match=f"`threshold` .*from 0 to 1.*{threshold}"):
            result.present(threshold)
    result.presence = None
    with pytest.raises(ValueError, match=r"SE head.*presence=None.*areas\(\)"):
        result.present()


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png.*x\.jpg.*overlay\(\)\.save"):
        example().save(tmp_path / "x.jpg")
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_a_picture_of_moderate_size():
    for height, width in ((48, 64), (1500, 3000)):
        png = example(height=height, width=width)._repr_png_()
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.format == "PNG"
            assert min(width, 1000) <= picture.width <= 1024


def test_overlay_blends_image_and_colours():
    picture = example().overlay(alpha=0.25, legend=False)
    assert picture.size == (64, 48) and picture.mode == "RGB"
    # By hand: 0.75 * 100 + 0.25 * colour, rounded.
    assert picture.getpixel((60, 40)) == (107, 91, 107)
    assert picture.getpixel((2, 2)) == (102, 110, 84)
    assert example().overlay(alpha=1, legend=False).getpixel((60, 40)) == (128, 64, 128)
    with pytest.raises(ValueError, match="`alpha`.*from 0 to 1.*50"):
        example().overlay(alpha=50)


def test_mismatched_parts_are_named():
    image = np.zeros((40, 50, 3), "uint8")
    with pytest.raises(ValueError, match=r"\(40, 50\).*\(50, 40\)"):
        Segmentation(image, np.zeros((50, 40), "uint8"), LABELS)
    with pytest.raises(ValueError, match="`palette`.*each of the 4 classes.*3 colours"):
        Segmentation(image, np.zeros((40, 50), "uint8"), LABELS, PALETTE[:3])


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"image": np.zeros((40, 50, 3), "float32")}, "`image` must be uint8.*float32"),
        ({"image": np.zeros((40, 50), "uint8")}, "`image` must be uint8 RGB"),
        ({"label_map": np.zeros((40, 50), "float32")}, "integers from 0 to 3.*float32"),
        ({"label_map": np.full((40, 50), 4, "uint8")}, "integers from 0 to 3.*from 4 to 4"),
        ({"label_map": np.full((40, 50), -1)}, "integers from 0 to 3.*from -1"),
        ({"presence": [0.5, 0.5]}, r"`presence` must have shape \(4,\).*\(2,\)"),
        ({"palette": np.array(PALETTE) / 255}, r"\[0, 255\].*scaled to \[0, 1\]"),
        ({"confidence": np.zeros((50, 40))}, r"`confidence` must have.*\(40, 50\).*\(50, 40\)"),
        ({"entropy": 0.5}, r"`entropy` must have.*\(40, 50\).*\(\)"),
    ],
)
def test_invalid_parts_are_named(arguments, words):
    usual = {"image": np.zeros((40, 50, 3), "uint8"), "label_map": np.zeros((40, 50), "uint8")}
    with pytest.raises(ValueError, match=words):
        Segmentation(**{**usual, "labels": LABELS, **arguments})
