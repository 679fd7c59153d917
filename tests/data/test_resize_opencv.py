"""Images and masks are resized as OpenCV does it, to the last bit.

`resize_golden.npz` has OpenCV's results; where it is installed, random images are compared too, and
every test runs with it and without it.
"""

import pathlib

import numpy as np
import pytest
from make_resize_golden import CASES, name

from keras_encnet.data import resizing
from keras_encnet.data.resizing import resize_image, resize_mask

GOLDEN = np.load(pathlib.Path(__file__).with_name("resize_golden.npz"))
OPENCV = resizing._opencv
SOURCE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype="uint8")


@pytest.fixture(autouse=True, params=["numpy", "opencv"])
def library(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(resizing, "_opencv", lambda: None)
    elif resizing._opencv() is None:
        pytest.skip("needs an OpenCV with the same values")


@pytest.fixture
def cv2():
    cv2 = pytest.importorskip("cv2")
    was = cv2.useOptimized()
    yield cv2
    cv2.setUseOptimized(was)


@pytest.mark.parametrize("case", CASES, ids=lambda case: name(*case))
def test_images_are_those_of_opencv(case):
    resized = resize_image(GOLDEN["image/" + name(*case)], *case[2])
    np.testing.assert_array_equal(resized, GOLDEN["linear/" + name(*case)])


@pytest.mark.parametrize("case", CASES, ids=lambda case: name(*case))
def test_masks_are_those_of_opencv(case):
    resized = resize_mask(GOLDEN["image/" + name(*case)][..., 0], *case[2])
    np.testing.assert_array_equal(resized, GOLDEN["nearest/" + name(*case)])


def test_a_weight_by_hand():
    # 3 pixels to 2: centres at 0.25 and 1.75, weights 1536 and 512 of 2048.
    # (1536 * 10 + 512 * 201) >> 4 = 7392, (2048 * 7392) >> 16 = 231, (231 + 2) >> 2 = 58 (57.75).
    image = np.array([[[10], [201], [90]]], "uint8")
    assert resize_image(image, 1, 2)[0, :, 0].tolist() == [58, 118]


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("limit", [3, 40, 500])
def test_random_sizes_are_those_of_opencv(cv2, optimized, limit):
    cv2.setUseOptimized(optimized)
    rng = np.random.default_rng(limit)
    for i in range(30):
        old, new = rng.integers(1, limit + 1, (2, 2)).tolist()
        if i % 5 == 0:
            old = [2 * side for side in new]
        image = rng.integers(0, 256, (*old, (1, 3, 4)[i % 3]), dtype="uint8")
        expected = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
        resized = resize_image(image, *new)
        np.testing.assert_array_equal(resized, expected.reshape(resized.shape), f"{old} to {new}")
        expected = cv2.resize(image[..., 0], new[::-1], interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(resize_mask(image[..., 0], *new), expected)


@pytest.mark.parametrize("size", [(150, 200), (97, 333), (512, 683), (41, 29)])
def test_windows_are_those_of_the_complete_image(size):
    complete = resize_image(SOURCE, *size)
    rng = np.random.default_rng(1)
    for _ in range(12):
        top, left = (int(rng.integers(side)) for side in size)
        rows, columns = int(rng.integers(size[0] - top)) + 1, int(rng.integers(size[1] - left)) + 1
        window = resize_image(SOURCE, *size, (top, left, rows, columns))
        expected = complete[top : top + rows, left : left + columns]
        np.testing.assert_array_equal(window, expected)


def test_strips_do_not_change_the_result(monkeypatch):
    window = 0, 0, 90, 70
    at_once = resizing.resize_with_numpy(SOURCE, 90, 70, window)
    monkeypatch.setattr(resizing, "STRIP", 1)
    np.testing.assert_array_equal(resizing.resize_with_numpy(SOURCE, 90, 70, window), at_once)


def test_images_that_are_no_contiguous_memory():
    mirrored = SOURCE[::-1, ::-1]
    np.testing.assert_array_equal(
        resize_image(mirrored, 97, 333), resize_image(mirrored.copy(), 97, 333)
    )


def test_an_opencv_that_rounds_differently_is_not_used(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    right = cv2.resize
    monkeypatch.setattr(cv2, "resize", lambda image, size: right(image, size) // 2 * 2)
    assert OPENCV.__wrapped__() is None
