"""What is kept of each image."""

import json

import numpy as np
import pytest

from keras_encnet.inference.records import ImageRecord, record_of


def record(confusion, presence=None):
    return record_of(
        np.array(confusion),
        index=3,
        name="a/b",
        source="b.jpg",
        size=(4, 5),
        presence=presence,
        stamp="5 bytes",
    )


def test_figures_follow_from_the_counts():
    # Class 0: 6 of 6 + 2 + 1; class 1: 3 of 3 + 2 + 1; class 2 is neither there nor predicted.
    kept = record([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert kept.intersections.tolist() == [6, 3, 0] and kept.unions.tolist() == [9, 6, 0]
    assert kept.truth.tolist() == [8, 4, 0] and kept.pixel_accuracy == 9 / 12
    assert kept.miou == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert kept.confusion.tolist() == [[6, 2, 0], [1, 3, 0], [0, 0, 0]]


def test_json_keeps_everything():
    presence = np.float32([0.1, 1 / 3, 1e-30])
    kept = record([[2**52 + 1, 0, 1], [0, 0, 0], [7, 0, 2**62 + 1]], presence)
    again = ImageRecord.from_json(json.loads(json.dumps(kept.to_json())))
    assert again.confusion.tolist() == kept.confusion.tolist()
    assert again.presence.dtype == "float32" and (again.presence == presence).all()
    assert again[:4] == kept[:4] == (3, "a/b", "b.jpg", (4, 5)) and again.stamp == "5 bytes"


def test_an_image_without_a_counted_pixel_has_no_figures(recwarn):
    kept = record(np.zeros((3, 3), int))
    assert np.isnan(kept.miou) and np.isnan(kept.pixel_accuracy)
    again = ImageRecord.from_json(json.loads(json.dumps(kept.to_json())))
    assert again.confusion.tolist() == kept.confusion.tolist() and not list(recwarn)
