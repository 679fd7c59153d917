"""Pictures of what the network sees. Expected colours are by hand."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from keras_encnet.data import Pairs, batches, preview
from keras_encnet.data.legends import with_legend
from keras_encnet.data.preview import show

GREEN, BLUE, RED = (0, 255, 0), (0, 0, 255), (255, 0, 0)
LABELS, PALETTE = ["road", "sky", "car"], [GREEN, BLUE, RED]
WHITE, BLACK, MAGENTA = (255, 255, 255), (0, 0, 0), (255, 0, 255)
CHEQUERS = {(235, 235, 235), (205, 205, 205)}


def colours_of(picture, box=None):
    return {colour for _, colour in picture.crop(box).getcolors(1 << 20)}


def grey_pairs(mask, count=1, grey=100):
    mask = np.asarray(mask)
    image = np.full((*mask.shape, 3), grey, "uint8")
    return Pairs([(image, mask)] * count, labels=LABELS, palette=PALETTE)


@pytest.fixture
def entries(monkeypatch):
    """The names in the legend of each picture that a test makes."""
    names = []

    def recorded(picture, entries, size):
        names.append([name for name, _ in entries])
        return with_legend(picture, entries, size)

    monkeypatch.setattr(preview, "with_legend", recorded)
    return names


def test_classes_have_half_their_colour_and_their_name(entries):
    mask = np.zeros((40, 40), "uint8")
    mask[:, 20:] = 2
    picture = show(grey_pairs(mask))
    # Grey 100 with half of the palette's colour: 50 and 177.5. The image is 360 pixels wide.
    assert picture.getpixel((12, 12)) == (50, 178, 50)
    assert picture.getpixel((12 + 179, 12 + 359)) == (50, 178, 50)
    assert picture.getpixel((12 + 180, 12)) == (178, 50, 50)
    assert entries == [["road", "car"]]
    assert {GREEN, RED} <= colours_of(picture) and BLUE not in colours_of(picture)


def test_ignored_pixels_padding_and_invalid_values_look_different(entries):
    mask = np.zeros((40, 40), "uint8")
    mask[:10], mask[10:20] = 255, 7
    data = batches(grey_pairs(mask), size=(80, 80), batch_size=1, scale=(1, 1))
    image, label = data[0][0][0], data[0][1][0]  # resized to 80×80: no padding
    assert image.shape == (80, 80, 3) and (label[:20] == 255).all()
    ignored, invalid, road = (12, 12, 372, 102), (12, 102, 372, 192), (12, 192, 372, 372)
    picture = show(data)
    assert colours_of(picture, ignored) == {WHITE, BLACK, (100, 100, 100)}
    assert colours_of(picture, invalid) == {MAGENTA, BLACK}
    assert colours_of(picture, road) == {(50, 178, 50)}
    tall = batches(grey_pairs(mask), size=(80, 40), batch_size=1)
    padding = (12 + 1, 12 + 181, 12 + 179, 12 + 359)
    assert colours_of(show(tall), padding) == CHEQUERS
    assert entries == [
        ["road", "not labelled", "not a class: 7"],
        ["road", "not labelled", "padding", "not a class: 7"],
    ]


def test_the_next_batch_is_shown_and_training_does_not_notice():
    pairs = [(np.full((40, 40, 3), 40 + i, "uint8"), np.zeros((40, 40), int)) for i in range(8)]
    pairs = Pairs(pairs, labels=["road"], palette=[BLACK])
    options = {"scale": (1, 1), "photometric": False, "seed": 1}
    data = batches(pairs, size=(40, 40), batch_size=2, augment=True, **options).start_at(5)
    expected = [data.read(step)[0] for step in (5, 6, 7)]
    data.on_epoch_begin()
    np.testing.assert_array_equal(data[0][0], expected[0])
    picture = show(data)
    shades = [picture.getpixel((12 + 372 * i, 12))[0] for i in range(2)]
    assert shades == [(image[0, 0, 0] + 1) // 2 for image in expected[0]]
    np.testing.assert_array_equal(data[0][0], expected[1])
    np.testing.assert_array_equal(data[0][0], expected[2])
    data.on_epoch_end()
    assert data.step == 8


def test_the_model_s_ignored_value_is_shown(entries):
    data = batches(grey_pairs(np.full((40, 40), 2)), size=(40, 40), batch_size=1)
    data.use_ignore_index(2)
    show(data)
    assert entries == [["not labelled"]]


def test_at_most_sixteen_are_shown():
    pairs = grey_pairs(np.zeros((40, 40), int), 20)
    size = 4 * 372 + 12, 4 * (372 + 24) + 12 + 44  # four rows with their names, and the legend
    assert show(pairs).size == show(batches(pairs, size=(40, 40), batch_size=20)).size == size


def test_pairs_of_several_sizes_without_names_of_classes(entries):
    sizes = [(40, 80), (80, 40), (33, 33)]
    pairs = [(np.zeros((*size, 3), "uint8"), np.full(size, i)) for i, size in enumerate(sizes)]
    picture = show(pairs)
    assert picture.width == 12 + 3 * 372
    # 360×180 and 180×360 (width×height), with nothing below and beside them but the names.
    assert colours_of(picture, (12, 12 + 180 + 24, 372, 12 + 360)) == {WHITE}
    assert colours_of(picture, (12 + 372 + 180, 12, 2 * 372, 12 + 360)) == {WHITE}
    assert entries == [["class 0", "class 1", "class 2"]]


def test_images_without_masks_are_shown_alone(entries):
    class Unlabelled(Pairs):
        has_masks = False

        def read(self, i):
            return self._items[i][0], None

    picture = show(Unlabelled(grey_pairs(np.zeros((40, 40), int), 2)._items, labels=LABELS))
    assert picture.getpixel((12, 12)) == (100, 100, 100) and entries == []


def test_long_names_are_cut_at_their_beginning():
    class Named(Pairs):
        def name(self, i):
            return "a/directory/with/a/name/" * 5 + "end"

    picture = show(Named(grey_pairs(np.zeros((40, 40), int))._items))
    assert colours_of(picture, (372, 0, 384, 380)) == {WHITE}
    font = ImageFont.load_default(15)
    assert preview._shortened("abcdef", font.getlength("…def") + 0.5) == "…def"
    assert preview._shortened("abcdef", 1000) == "abcdef"


@pytest.mark.parametrize("width", [32, 300, 1500])
def test_nothing_of_a_legend_is_cut_off(width):
    entries = [("road", GREEN), ("sky", BLUE), ("a rather long name", RED)]
    picture = with_legend(Image.new("RGB", (width, 20), BLACK), entries, 15)
    legend = np.asarray(picture)[20:]
    assert {GREEN, BLUE, RED} <= colours_of(picture)
    assert picture.width >= width and (legend[:, -2:] == 255).all() and (legend[-2:] == 255).all()


def test_invalid_data_is_an_error():
    with pytest.raises(ValueError, match="`data` must not be empty"):
        show([])
    image = np.zeros((40, 40, 3), "uint8")
    with pytest.raises(ValueError, match="same size.*pair 0"):
        show([(image, np.zeros((40, 41), int))])
