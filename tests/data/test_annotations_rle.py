"""Run-length codes: Kaggle's, and both kinds of COCO."""

import numpy as np
import pytest

from keras_encnet.data.annotations.rle import (
    coco_counts,
    coco_runs,
    from_columns,
    from_kaggle_rle,
    kaggle_rle,
    paint,
)


def test_kaggles_own_example():
    # "1 3 10 5 implies pixels 1, 2, 3, 10, 11, 12, 13, 14 are to be included in the mask."
    mask = from_kaggle_rle("1 3 10 5", 4, 5)
    assert np.flatnonzero(mask.T.ravel()).tolist() == [0, 1, 2, 9, 10, 11, 12, 13]
    assert mask.dtype == bool and mask.shape == (4, 5) and kaggle_rle(mask) == "1 3 10 5"


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
def test_a_mask_is_the_same_after_encoding_and_decoding(share):
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = rng.random(rng.integers(1, 40, 2)) < share
        assert (from_kaggle_rle(kaggle_rle(mask), *mask.shape) == mask).all()
    assert kaggle_rle(np.zeros((3, 3), "uint8")) == ""
    assert kaggle_rle(np.full((3, 3), 7, "uint8")) == "1 9"


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 2 3", "pairs of start and length. Received: 3 numbers"),
        ("1 a", "integers only. Received: '1 a'"),
        ("0 2", r"12 pixels of an image of 3×4 \(height×width\), counted from 1. Received: start 0"),
        ("12 2", "Received: start 12, length 2"),
        ("5 -1", "Received: start 5, length -1"),
        (f"5 {2**63 - 1}", "Received: start 5, length 9223372036854775807"),
        (f"5 {10**30}", "integers only"),
    ],
)
def test_kaggles_codes_that_are_invalid(text, message):
    with pytest.raises(ValueError, match=message):
        from_kaggle_rle(text, 3, 4)


def decoded(rle, height, width):
    columns = np.zeros(height * width, bool)
    paint(columns, coco_runs(rle, height, width), True)
    return from_columns(columns, height, width)


def test_both_kinds_of_coco_give_the_masks_of_pycocotools():
    masks = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(2)
    for i in range(300):
        height, width = map(int, rng.integers(1, 200, 2))
        mask = rng.random((height, width)) < [0, 0.5, 0.001, 0.999, 1][i % 5]
        code = masks.encode(np.asfortranarray(mask.astype("uint8")))
        compressed = {"size": [height, width], "counts": code["counts"].decode()}
        listed = compressed | {"counts": coco_counts(compressed["counts"]).tolist()}
        assert (decoded(compressed, height, width) == mask).all()
        assert (decoded(listed, height, width) == mask).all()
        assert masks.frPyObjects(listed, height, width)["counts"] == code["counts"]


@pytest.mark.parametrize(
    "rle, message",
    [
        ({"size": [4, 3], "counts": [12]}, r"that of the image, \[3, 4\]. Received: \[4, 3\]"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, r"\[3, 4\]. Received: \[1000000000, 1000000"),
        ({"counts": [12]}, r"\[3, 4\]. Received: None"),
        ({"size": [3, 4], "counts": [5, 6]}, r"a sum of 12, .* Received: \[5, 6\], a sum of 11"),
        ({"size": [3, 4], "counts": [13, -1]}, r"Received: \[13, -1\], a sum of 12"),
        (
            {"size": [3, 4], "counts": [2**62, 2**62, 2**62, 2**62, 12]},
            "4611686018427387904, 12.*, a sum of 18446744073709551628",
        ),
        ({"size": [3, 4], "counts": [10**30]}, "must be integers. Received: "),
        ({"size": [3, 4], "counts": [5.0, 7]}, "must be integers. Received: "),
        ({"size": [3, 4], "counts": ["5", 7]}, "must be integers. Received: "),
        ({"size": [3, 4], "counts": None}, "a list or a string. Received: None"),
        ({"size": [3, 4], "counts": "5"}, r"Received: \[5\], a sum of 5"),
        ({"size": [3, 4], "counts": "oooooooooo0"}, "that pycocotools wrote. Received: 'oooooooooo0'"),
        ({"size": [3, 4], "counts": "5o"}, "that pycocotools wrote. Received: '5o', 2 characters"),
        ({"size": [3, 4], "counts": "5é"}, "that pycocotools wrote"),
        ({"size": [3, 4], "counts": "5 7"}, "that pycocotools wrote"),
        ({"size": [3, 4], "counts": ""}, r"Received: \[\], a sum of 0"),
    ],
)
def test_cocos_codes_that_are_invalid(rle, message):
    with pytest.raises(ValueError, match=message):
        coco_runs(rle, 3, 4)
