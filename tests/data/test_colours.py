"""Colours change as in mmsegmentation's recipe. Expected numbers are by hand or from `colorsys`."""

import colorsys

import numpy as np
import pytest

from keras_encnet.data import colours
from keras_encnet.data.colours import change_colours, distort, to_hsv, to_rgb

# OpenCV rounds in another way in the last columns, if the width is not a multiple of 32.
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 96, 3), dtype="uint8")
# Half a step of OpenCV's hue, of 180, moves a channel of full saturation by 4.25 levels.
STEP = 4.25 + 2


@pytest.fixture(params=["opencv", "numpy"], autouse=True)
def conversions(request, monkeypatch):
    """Every test runs with OpenCV's conversions and with those in NumPy."""
    if request.param == "numpy":
        monkeypatch.setattr(colours, "_conversions", lambda: (to_hsv, to_rgb))
    else:
        pytest.importorskip("cv2")
        assert colours._conversions()[0] is not to_hsv


def generators(count):
    return [np.random.default_rng([7, i]) for i in range(count)]


@pytest.mark.parametrize("saturation, hue", [(1.3, 7), (0.6, -18), (1, 17), (1.5, 0), (0.5, -1)])
def test_hue_and_saturation_are_those_of_hsv(saturation, hue):
    pixels = IMAGE[:4].reshape(-1, 3)
    changed = change_colours(IMAGE[:4], saturation=saturation, hue=hue).reshape(-1, 3)
    for before, after in zip(pixels.tolist(), changed.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(level / 255 for level in before))
        expected = colorsys.hsv_to_rgb((h + hue / 180) % 1, min(1, s * saturation), v)
        assert np.abs(np.array(expected) * 255 - after).max() < STEP


@pytest.mark.parametrize(
    "change", [{"saturation": 1.37}, {"saturation": 0.6}, {"hue": 17}, {"hue": -18}]
)
def test_hue_and_saturation_are_those_of_mmsegmentation(change):
    """Its `saturation` and `hue`, on OpenCV's conversions."""
    cv2 = pytest.importorskip("cv2")
    hsv = cv2.cvtColor(IMAGE, cv2.COLOR_RGB2HSV)
    if "saturation" in change:
        scaled = hsv[:, :, 1].astype("float32") * change["saturation"]
        hsv[:, :, 1] = np.clip(scaled, 0, 255).astype("uint8")
    else:
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + change["hue"]) % 180
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(int)
    difference = np.abs(change_colours(IMAGE, **change) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02


def test_conversions_agree_with_opencv():
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(1).integers(0, 256, (300, 320, 3), dtype="uint8")
    image[:100] = image[:100] // 32 * 32  # many ties
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    np.testing.assert_array_equal(to_hsv(image), hsv)
    # OpenCV truncates float32, so that its builds differ where a level is an integer.
    difference = np.abs(to_rgb(hsv) - cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02


def test_brightness_and_contrast_are_clipped_and_truncated():
    image = np.array([[[0, 101, 255]]], "uint8")
    assert change_colours(image, brightness=-20.5).tolist() == [[[0, 80, 234]]]
    assert change_colours(image, contrast=1.5).tolist() == [[[0, 151, 255]]]
    both = dict(brightness=20, contrast=0.5)
    assert change_colours(image, **both).tolist() == [[[10, 60, 127]]]
    # Contrast is changed after brightness in either order.
    assert change_colours(image, **both, contrast_first=False).tolist() == [[[10, 60, 127]]]


def test_distortions_change_each_property_half_of_the_time():
    grey = np.full((2, 2, 3), 100, "uint8")  # unaffected by hue and saturation
    changed = [(distort(rng, grey) != 100).any() for rng in generators(400)]
    assert 0.68 < np.mean(changed) < 0.82  # brightness or contrast: 3/4
    red = np.array([[[200, 100, 100]]], "uint8")
    differences = [np.ptp(distort(rng, red)[0, 0, 1:].astype(int)) > 3 for rng in generators(400)]
    assert 0.35 < np.mean(differences) < 0.55  # hue changed by more than a little: slightly under 1/2


def test_hue_turns_by_up_to_half_a_circle():
    orange = np.array([[[200, 100, 0]]], "uint8").repeat(32, axis=1)  # 30 of 360 degrees
    assert np.abs(change_colours(orange, hue=45)[0, 0] - np.array([0, 200, 0])).max() <= 1
    assert np.abs(change_colours(orange, hue=90)[0, 0] - np.array([0, 100, 200])).max() <= 1
    assert np.abs(change_colours(orange, hue=-60)[0, 0] - np.array([100, 0, 200])).max() <= 1
    for hue in range(-90, 91, 15):
        changed = change_colours(IMAGE[:2], hue=hue).reshape(-1, 3)
        for before, after in zip(IMAGE[:2].reshape(-1, 3), changed, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*(before / 255))
            expected = colorsys.hsv_to_rgb((h + hue / 180) % 1, s, v)
            assert np.abs(np.array(expected) * 255 - after).max() < STEP


def test_the_defaults_draw_the_same_numbers_in_every_version():
    # Training that is resumed after an update must see the same images.
    image = np.array([[[200, 100, 40], [0, 30, 90]]], "uint8")
    found = [distort(rng, image).ravel().astype(int) for rng in generators(4)]
    expected = [
        [200, 119, 72, 18, 42, 90],
        [131, 65, 26, 0, 20, 59],
        [196, 150, 71, 19, 21, 86],
        [246, 89, 0, 0, 36, 110],
    ]
    assert np.abs(np.array(found) - expected).max() <= 1  # OpenCV's builds differ by one level


OFF = dict(brightness=None, contrast=None, saturation=None, hue=None)


@pytest.mark.parametrize(
    "change, smallest, largest",
    [
        # The second channel of (200, 100, 100), by hand.
        (dict(brightness=20), 80, 120),
        (dict(contrast=(0.9, 1.1)), 90, 110),
        (dict(saturation=(0.5, 1.5)), 50, 151),
        (dict(hue=15), 100, 150),
    ],
)
def test_changes_stay_in_their_range_and_use_it(change, smallest, largest):
    red = np.array([[[200, 100, 100]]], "uint8")
    found = [int(distort(rng, red, **{**OFF, **change})[0, 0, 1]) for rng in generators(300)]
    assert smallest <= min(found) <= smallest + 3
    assert largest - 4 <= max(found) <= largest


@pytest.mark.parametrize("off", [OFF, dict(brightness=0, contrast=None, saturation=None, hue=0)])
def test_changes_can_be_switched_off(off):
    for rng in generators(20):
        np.testing.assert_array_equal(distort(rng, IMAGE, **off), IMAGE)


def test_strips_and_mirrored_images_do_not_change_the_result(monkeypatch):
    change = dict(brightness=9, contrast=1.2, saturation=1.3, hue=5, contrast_first=False)
    at_once = change_colours(IMAGE, **change)
    monkeypatch.setattr("keras_encnet.data.colours.STRIP", 1)
    mirrored = change_colours(IMAGE[:, ::-1], **change)[:, ::-1]
    difference = np.abs(mirrored.astype(int) - at_once)
    # OpenCV's vectors and its code for the rest of a row may differ by one level.
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
