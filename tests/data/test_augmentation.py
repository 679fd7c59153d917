"""The augmentation agrees with the originals' for the same drawn numbers, which a script has stored."""

import json
from pathlib import Path

import numpy as np
import pytest

from keras_encnet.data import colours
from keras_encnet.data.transforms import augment

with np.load(Path(__file__).with_name("augmentation_golden.npz")) as archive:
    GOLDEN = dict(archive)
CASES = list(enumerate(json.loads(str(GOLDEN["cases"]))))


class Drawn:
    """A random generator that returns stored numbers."""

    def __init__(self, numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)

    def uniform(self, low, high):
        assert low <= self.numbers[0] <= high
        return self.numbers.pop(0)

    def integers(self, low, high=None, endpoint=False):
        low, high = (0, low) if high is None else (low, high)
        assert low <= self.numbers[0] < high + endpoint
        return self.numbers.pop(0)


def both(i, case, size, **options):
    """The image and mask as ours and as the original makes them, without padding."""
    rng = Drawn(case["numbers"])
    source = [GOLDEN[f"source_{kind}{case['source']}"] for kind in ("image", "mask")]
    image, mask = augment(rng, *source, size, **options)
    assert not rng.numbers
    expected = GOLDEN[f"image{i}"].astype(int), GOLDEN[f"mask{i}"]
    rows, columns = expected[1].shape
    assert (mask[rows:] == 255).all() and (mask[:, columns:] == 255).all()
    return (image[:rows, :columns].astype(int), mask[:rows, :columns]), expected


@pytest.mark.parametrize("opencv", [True, False])
@pytest.mark.parametrize("i, case", [case for case in CASES if case[1]["kind"] == "mmsegmentation"])
def test_augmentation_agrees_with_mmsegmentation(i, case, opencv, monkeypatch):
    if opencv:
        pytest.importorskip("cv2")
    else:
        monkeypatch.setattr(colours, "_conversions", lambda: (colours.to_hsv, colours.to_rgb))
    (image, mask), (expected, expected_mask) = both(i, case, (48, 64), resize=(256, 80))
    np.testing.assert_array_equal(mask, expected_mask)
    difference = np.abs(image - expected)
    if opencv:
        assert difference.max() <= 1
        return
    # OpenCV's vectors truncate levels and its scalar code for the last columns rounds them. A change
    # after that may enlarge a difference of one level.
    difference = difference[:, : mask.shape[1] // 32 * 32]
    assert (difference > 1).mean() < 0.002 and (difference > 0).mean() < 0.03


@pytest.mark.parametrize("i, case", [case for case in CASES if case[1]["kind"] == "PyTorch-Encoding"])
def test_augmentation_agrees_with_pytorch_encoding(i, case):
    options = {"resize": {case["side"]: 60}, "blur": 0.5 if case["side"] == "short" else 0.0}
    recipe = {"antialias": True, "max_class_share": 1, "photometric": False, "padding": (0, 0, 0)}
    (image, mask), (expected, expected_mask) = both(i, case, (48, 48), **options, **recipe)
    np.testing.assert_array_equal(mask, expected_mask)
    assert np.abs(image - expected).max() <= 1
