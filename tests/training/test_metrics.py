"""Mean IoU by hand, and compared with Keras's own."""

import keras
import numpy as np
import pytest

from keras_encnet.training import MeanIoU


def one_hot(labels, num_classes):
    """Logits whose largest is at `labels`."""
    return 9.0 * np.eye(num_classes, dtype="float32")[np.array(labels)]


def mean_iou(true, found, num_classes, weight=None):
    metric = MeanIoU(num_classes)
    metric.update_state(np.array(true), one_hot(found, num_classes), weight)
    return float(metric.result())


def test_by_hand():
    # class 0: 2 of 3, class 1: 1 of 3, class 2: 1 of 2
    assert mean_iou([[0, 0, 1], [1, 2, 0]], [[0, 0, 1], [2, 2, 1]], 3) == pytest.approx(
        (2 / 3 + 1 / 3 + 1 / 2) / 3
    )


def test_weights():
    weight = np.array([[0.5, 2.0, 0.0, 1.5]])
    # class 0: 0.5 of 0.5 + 2; class 1: 1.5 of 1.5 + 2; the third pixel has weight 0
    assert mean_iou([[0, 0, 1, 1]], [[0, 1, 0, 1]], 2, weight) == pytest.approx(
        (0.5 / 2.5 + 1.5 / 3.5) / 2
    )


def test_absent_classes_are_left_out():
    assert mean_iou([[0, 0, 4]], [[0, 0, 4]], 5) == 1.0
    # predicted but absent: an IoU of 0, which counts
    assert mean_iou([[0, 0]], [[0, 3]], 5) == pytest.approx((1 / 2 + 0) / 2)
    assert float(MeanIoU(3).result()) == 0.0


def counted(metric, cells):
    """Lets a metric begin with the counts of a confusion matrix."""
    cells = np.array(cells, "float64")
    pixels, blocks = metric.variables
    pixels.assign(cells % 2**14)
    blocks.assign(cells // 2**14)


def test_counts_past_2_31_do_not_wrap():
    metric = MeanIoU(2)
    counted(metric, [[3 * 2.0**31, 2.0**31], [0, 2.0**33]])
    metric.update_state(np.zeros((1, 64, 64), "int32"), one_hot(np.zeros((1, 64, 64), "int32"), 2))
    assert float(metric.result()) == pytest.approx((3 / 4 + 4 / 5) / 2, rel=1e-5)


def test_counts_stay_exact_beyond_2_24_pixels():
    # Added in float32, one pixel more than 2²⁴ is lost.
    metric = MeanIoU(2)
    counted(metric, [[2**24, 2**31], [2**30 + 3, 0]])
    true, found = [[0, 0, 1], [1, 1, 1]], [[0, 1, 1], [0, 0, 1]]
    for _ in range(3):
        metric.update_state(np.array(true), one_hot(found, 2))
    assert metric.confusion.tolist() == [[2**24 + 3, 2**31 + 3], [2**30 + 9, 6]]


def test_images_of_many_pixels_are_counted_exactly():
    # By hand: each image has 20,001 pixels of class 0, of which one is called 1. 20,000 is more than
    # a block of 2¹⁴, and the sum of 900 of them more than 2²⁴.
    metric = MeanIoU(2)
    found = np.zeros((1, 20_001), "int32")
    found[0, 7] = 1
    logits, true = one_hot(found, 2).repeat(9, 0), np.zeros((9, 20_001), "int32")
    for _ in range(100):
        metric.update_state(true, logits)
    assert metric.confusion.tolist() == [[900 * 20_000, 900], [0, 0]]


def test_fractional_weights_are_added_up_across_blocks():
    metric = MeanIoU(2)
    counted(metric, [[2**14 - 0.25, 0], [0, 2**14]])
    metric.update_state(np.array([[0, 1]]), one_hot([[0, 0]], 2), np.array([[0.5, 0.125]]))
    assert metric.confusion.tolist() == [[2**14 + 0.25, 0], [0.125, 2**14]]


def test_agrees_with_keras_over_batches_and_after_a_reset():
    rng = np.random.default_rng(0)
    ours, theirs = MeanIoU(4), keras.metrics.MeanIoU(4, sparse_y_pred=False, ignore_class=255)
    for round in range(2):
        for metric in (ours, theirs):
            metric.reset_state()
        for _ in range(2):
            labels = rng.integers(0, 4, (2, 5, 6))
            logits = rng.normal(size=(2, 5, 6, 4)).astype("float32")
            valid = rng.random((2, 5, 6)) > 0.2
            ours.update_state(labels, logits, valid.astype("float32"))
            theirs.update_state(np.where(valid, labels, 255), logits)
        assert float(ours.result()) == pytest.approx(float(theirs.result()), rel=1e-5), round


def test_config_round_trip():
    again = keras.metrics.deserialize(keras.metrics.serialize(MeanIoU(7, name="iou")))
    assert (type(again), again.num_classes, again.name) == (MeanIoU, 7, "iou")


def test_labels_outside_the_classes_are_left_out():
    # Without them: class 0: 1 of 2, class 1: 0 of 1. The second image is right everywhere.
    true, found = [[0, 255, 0], [2, 2, -1]], [[0, 1, 1], [2, 2, 2]]
    assert mean_iou(true, found, 3) == pytest.approx((1 / 2 + 0 + 1) / 3)
    last_axis = np.array(true)[..., None]
    assert mean_iou(last_axis, found, 3) == pytest.approx((1 / 2 + 0 + 1) / 3)


def test_shapes_and_number_of_classes_are_checked():
    with pytest.raises(ValueError, match=r"labels.*logits \(batch, ..., 3\).*\(2, 4\) and \(2, 4\)"):
        MeanIoU(3).update_state(np.zeros((2, 4)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(2, 4, 5\)"):
        MeanIoU(3).update_state(np.zeros((2, 4)), np.zeros((2, 4, 5)))
    for invalid in (0, None, 1.5, "a", True):
        with pytest.raises(ValueError, match="`num_classes` must be a positive integer. Received: "):
            MeanIoU(invalid)
