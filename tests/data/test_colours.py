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
