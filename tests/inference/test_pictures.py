import numpy as np
import pytest

from keras_encnet.data.conventions import default_palette
from keras_encnet.data.fonts import can_write
from keras_encnet.inference import comparison
from keras_encnet.inference.pictures import overlay

GREEN, BLUE, RED = (0, 255, 0), (0, 0, 255), (255, 0, 0)


def colours_of(picture):
    return {colour for _, colour in picture.getcolors(1 << 20)}


def test_default_palette_is_distinct_stable_and_prefixed():
    palette = default_palette(3000)
    assert palette.dtype == "uint8" and palette.shape == (3000, 3)
    assert len(np.unique(palette, axis=0)) == 3000
    np.testing.assert_array_equal(default_palette(7), palette[:7])
    first = palette[:150].astype(int)
    distance = np.abs(first[:, None] - first).sum(-1)
    assert distance[~np.eye(150, dtype=bool)].min() >= 45
    assert default_palette(1).shape == (1, 3)


@pytest.mark.parametrize("size", [(32, 32), (60, 400), (900, 120), (1500, 2000)])
def test_legend_fits_and_names_only_classes_in_the_picture(size):
    image = np.zeros((*size, 3), "uint8")
    label_map = np.zeros(size, "uint8")
    label_map[:, : size[1] // 2] = 2
    labels, palette = ["road", "sky", "a rather long name"], [GREEN, BLUE, RED]
    picture = overlay(image, label_map, labels, palette, alpha=1.0)
    height, width = size
    legend = picture.crop((0, height, *picture.size))
    found = colours_of(legend)
    assert {GREEN, RED} <= found and BLUE not in found
    assert picture.width >= width and legend.height >= 13
    # Nothing is cut off: the edges are blank.
    edge = np.asarray(legend)[:, -2:]
    assert (edge == 255).all() and (np.asarray(legend)[-2:] == 255).all()
    # The picture is in the middle, pixel by pixel.
    left = (picture.width - width) // 2
    part = np.asarray(picture)[:height, left : left + width]
    np.testing.assert_array_equal(part, np.array([GREEN, BLUE, RED], "uint8")[label_map])


def test_legends_have_names_in_other_scripts():
    image, label_map = np.zeros((40, 60, 3), "uint8"), np.zeros((40, 60), "uint8")
    road, sky = (np.asarray(overlay(image, label_map, [name], [GREEN])) for name in ("道路", "天空"))
    if not can_write("道路天空"):
        pytest.skip("needs a font with Chinese characters")
    # Without the characters both would be the same boxes or question marks.
    assert road.shape == sky.shape and (road != sky).any()


def test_colours_fade_where_the_class_is_uncertain():
    image, label_map = np.full((300, 3, 3), 100, "uint8"), np.zeros((300, 3), "uint8")
    confidence = np.tile(np.array([1, 0.5, 0], "float32"), (300, 1))
    options = {"alpha": 0.5, "legend": False, "confidence": confidence}
    picture = np.asarray(overlay(image, label_map, ["road"], [(200, 0, 0)], **options))
    # A colour's weight is alpha × confidence: 0.5, 0.25 and 0.
    expected = [[150, 50, 50], [125, 75, 75], [100, 100, 100]]
    np.testing.assert_array_equal(picture, np.tile(np.array(expected, "uint8"), (300, 1, 1)))


def test_comparison_has_columns_and_all_classes():
    image = np.full((30, 40, 3), 77, "uint8")
    truth = np.zeros((30, 40), "int64")
    truth[:5] = 255
    other = np.full((60, 40), 1, "uint8")
    rows = [(image, truth, truth * 0 + 1), (np.full((60, 40, 3), 88, "uint8"), other, other)]
    picture = comparison(rows, ["road", "sky", "car"], [GREEN, BLUE, RED], width=200)
    assert picture.width >= 600 and picture.height >= 150 + 300
    found = colours_of(picture)
    assert {GREEN, BLUE, RED, (77, 77, 77), (88, 88, 88), (255, 255, 255)} <= found
    pixels = np.asarray(picture)
    counts = [int((pixels == colour).all(-1).sum()) for colour in (GREEN, BLUE)]
    # 200 × 150 pixels, a sixth of them not labelled; 200 × 150 and twice 200 × 300.
    assert 25_000 <= counts[0] <= 26_000 and 150_000 <= counts[1] <= 151_000


def test_comparison_needs_an_entry_for_each_title():
    image = np.zeros((30, 40, 3), "uint8")
    with pytest.raises(ValueError, match=r"image.*truth.*prediction.*lengths \[2\]"):
        comparison([(image, image[..., 0])], ["road"], [GREEN])
    with pytest.raises(ValueError, match="one or more rows"):
        comparison([], ["road"], [GREEN])
    two = comparison([(image, image[..., 0])], ["road"], [GREEN], titles=("image", "labels"))
    assert two.width < 900


@pytest.mark.parametrize(
    "options, words",
    [
        ({"width": 0}, "`width` must be a positive integer.*0.*in pixels"),
        ({"width": 99.5}, "`width` must be"),
        ({"palette": [(0.0, 1.0, 0.0)]}, r"scaled to \[0, 1\]"),
        ({"palette": [GREEN, BLUE]}, "each of the 1 classes.*2 colours"),
        ({"ignore_index": 7}, "classes 0 to 0, or 7 .ignored.*255"),
    ],
)
def test_invalid_arguments_of_a_comparison_are_named(options, words):
    image, truth = np.zeros((30, 40, 3), "uint8"), np.zeros((30, 40), "uint8")
    truth[0] = 255
    usual = {"labels": ["road"], "palette": [GREEN], "width": 100}
    with pytest.raises(ValueError, match=words):
        comparison([(image, truth, truth)], **{**usual, **options})
    assert comparison([(image.astype("float32"), truth, truth)], **usual).mode == "RGB"
