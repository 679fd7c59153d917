"""Colours change as in mmsegmentation's recipe. Expected numbers are by hand or from `colorsys`."""

import colorsys

import numpy as np
import pytest

from keras_encnet.data.colours import change_colours, distort

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype="uint8")


def generators(count):
    return [np.random.default_rng([7, i]) for i in range(count)]


@pytest.mark.parametrize("saturation, hue", [(1.3, 7), (0.6, -18), (1, 17), (1.5, 0), (0.5, -1)])
def test_hue_and_saturation_are_those_of_hsv(saturation, hue):
    pixels = IMAGE[:4].reshape(-1, 3)
    changed = change_colours(IMAGE[:4], saturation=saturation, hue=hue).reshape(-1, 3)
    for before, after in zip(pixels.tolist(), changed.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(level / 255 for level in before))
        expected = colorsys.hsv_to_rgb((h + hue / 180) % 1, min(1, s * saturation), v)
        assert np.abs(np.array(expected) * 255 - after).max() < 1.5


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
    orange = np.array([[[200, 100, 0]]], "uint8")  # 30 of 360 degrees
    assert change_colours(orange, hue=45).tolist() == [[[0, 200, 0]]]
    assert change_colours(orange, hue=90).tolist() == [[[0, 100, 200]]]
    assert change_colours(orange, hue=-60).tolist() == [[[100, 0, 200]]]
    for hue in range(-90, 91, 15):
        changed = change_colours(IMAGE[:2], hue=hue).reshape(-1, 3)
        for before, after in zip(IMAGE[:2].reshape(-1, 3), changed, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*(before / 255))
            expected = colorsys.hsv_to_rgb((h + hue / 180) % 1, s, v)
            assert np.abs(np.array(expected) * 255 - after).max() < 1.5


def test_the_defaults_draw_the_same_numbers_in_every_version():
    # Training that is resumed after an update must see the same images.
    image = np.array([[[200, 100, 40], [0, 30, 90]]], "uint8")
    found = [distort(rng, image).ravel().tolist() for rng in generators(4)]
    assert found == [
        [200, 120, 72, 18, 42, 90],
        [131, 65, 26, 0, 19, 59],
        [196, 151, 71, 19, 21, 86],
        [246, 92, 0, 0, 36, 110],
    ]


OFF = dict(brightness=None, contrast=None, saturation=None, hue=None)


@pytest.mark.parametrize(
    "change, smallest, largest",
    [
        # The second channel of (200, 100, 100), by hand.
        (dict(brightness=20), 80, 120),
        (dict(contrast=(0.9, 1.1)), 90, 110),
        (dict(saturation=(0.5, 1.5)), 50, 150),
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
    np.testing.assert_array_equal(change_colours(IMAGE[:, ::-1], **change), at_once[:, ::-1])
