import logging
from pathlib import Path

import keras
import make_evaluation
import make_scores
import numpy as np
import pytest
from fake_net import FakeNet, image

from keras_encnet import EncNet
from keras_encnet.data import Pairs
from keras_encnet.inference import Scores, evaluate, score, segment


class Labels(FakeNet):
    """A network that knows which mask value is ignored."""

    ignore_index = 255


def examples():
    """Three pairs; the masks are the model's label maps, of which one pixel was changed."""
    images = [image(), image(70, 50), image()[:, ::-1]]
    masks = [result.label_map.copy() for result in segment(FakeNet(), images)]
    masks[1][3, 4] = (masks[1][3, 4] + 1) % 5
    return list(zip(images, masks, strict=True))


def test_scores_follow_from_counts():
    # By hand: class 0 has 2 hits of 3 true and 2 predicted pixels, class 1 has 1 of 1 and 2.
    result = score([np.array([[0, 0, 1, 1]])], [np.array([[0, 0, 0, 1]])], num_classes=3)
    np.testing.assert_allclose(result.iou, [2 / 3, 1 / 2, np.nan])
    np.testing.assert_allclose(result.accuracy, [2 / 3, 1, np.nan])
    assert result.pixel_accuracy == 0.75 and result.miou == pytest.approx(7 / 12)


@pytest.fixture(scope="module")
def golden():
    """Figures of mmsegmentation and cityscapesscripts; see `make_scores` and `make_evaluation`."""
    arrays = {}
    for name in ("scores.npz", "evaluation.npz"):
        with np.load(Path(__file__).with_name(name)) as loaded:
            arrays |= {key: loaded[key] for key in loaded}
    return arrays


def assert_scores(result, golden, prefix):
    for name, values in (("IoU", result.iou), ("Acc", result.accuracy), ("Dice", result.f1)):
        np.testing.assert_allclose(values, golden[f"{prefix}/{name}"], rtol=0, atol=1e-9)
    assert result.pixel_accuracy == pytest.approx(float(golden[f"{prefix}/aAcc"]), abs=1e-9)
    assert result.miou == pytest.approx(np.nanmean(golden[f"{prefix}/IoU"]), abs=1e-9)
    assert result.mean_accuracy == pytest.approx(np.nanmean(golden[f"{prefix}/Acc"]), abs=1e-9)


@pytest.mark.parametrize("name", make_scores.CASES)
def test_label_maps_score_as_in_mmsegmentation(golden, name):
    classes = make_scores.CASES[name]
    result = score(*make_scores.label_maps(classes), classes)
    assert_scores(result, golden, f"mmsegmentation/{name}")
    assert np.isnan(result.iou[-1]) and result.iou[-2] == 0 and np.isnan(result.accuracy[-2])
    assert result.num_images == 3


def test_label_maps_score_as_in_cityscapesscripts(golden):
    result = score(*make_scores.label_maps(19), 19)
    np.testing.assert_allclose(result.iou, golden["cityscapesscripts/IoU"], rtol=0, atol=1e-9)
    assert result.miou == pytest.approx(float(golden["cityscapesscripts/mIoU"]), abs=1e-9)


@pytest.mark.parametrize("name", make_evaluation.WAYS)
def test_files_are_evaluated_as_in_mmsegmentation(golden, name):
    corners, how = make_evaluation.WAYS[name]
    pairs = list(make_evaluation.examples())
    model = Labels(align_corners=corners)
    labels = np.stack([segment(model, one, **how).label_map for one, _ in pairs])
    different = (labels != golden[f"{name}/labels"]).sum()
    assert different <= 1e-5 * labels.size, f"{different} of {labels.size} labels differ"
    assert_scores(evaluate(model, pairs, **how), golden, name)


def test_counts_are_exact_however_large_the_set():
    # Above 2⁵³, float64 has no odd integers.
    counts = np.array([[2**60 + 1, 2**55 + 1], [0, 1]])
    scores = Scores(("a", "b"), counts, 10**9)
    assert scores.to_json()["confusion"] == [[2**60 + 1, 2**55 + 1], [0, 1]]
    assert scores.accuracy[1] == 1 and scores.iou[1] == pytest.approx(1 / (2**55 + 2))


def test_scores_are_printed_and_written_by_name():
    result = score(
        [np.array([[0, 0, 1, 1]])], [np.array([[0, 0, 0, 1]])], 3, labels=["sky", "road", "tree"]
    )
    # Class 0: IoU 2/3, accuracy 2/3, F1 4/5. Class 1: 1/2, 1, 2/3.
    sky, road, tree, means, pixels = str(result).splitlines()[1:]
    assert sky.split() == ["sky", "0.667", "0.667", "0.800"]
    assert road.split() == ["road", "0.500", "1.000", "0.667"]
    assert tree.split() == ["tree", "nan", "nan", "nan"]
    assert means.split() == ["all", "classes", "0.583", "0.833", "0.733"]
    assert pixels == "pixel accuracy 0.750"
    written = result.to_json()
    assert written["classes"][2] == {"label": "tree", "iou": None, "accuracy": None, "f1": None}
    assert written["classes"][1]["accuracy"] == 1 and written["num_images"] == 1
    assert written["mean_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)


@pytest.mark.parametrize("kind", [list, tuple, iter, Pairs])
def test_every_kind_of_pairs_is_scored_alike(kind):
    pixels = sum(mask.size for _, mask in examples())
    assert evaluate(Labels(), kind(examples())).pixel_accuracy == 1 - 1 / pixels


def test_each_pair_is_read_once():
    class Counting(Pairs):
        reads = 0

        def read(self, i):
            self.reads += 1
            return super().read(i)

    pairs = Counting(examples())
    evaluate(Labels(), pairs)
    assert pairs.reads == 3


def test_ignored_pixels_are_the_models():
    model = Labels()
    model.ignore_index = 11
    pairs = examples()
    pairs[1][1][3, 4] = 11
    assert evaluate(model, pairs).pixel_accuracy == 1
    pairs[1][1][3, 4] = 255
    with pytest.raises(ValueError, match="0 to 4.*not 11 .ignored.*Received: 255. In pair 1"):
        evaluate(model, pairs)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda mask: mask[:-1], r"same shape.*\(61, 97\).*\(60, 97\)"),
        (lambda mask: mask.astype("float32"), "must be integers.*float32"),
        (lambda mask: np.eye(5, dtype="uint8")[mask], r"same shape.*\(61, 97, 5\)"),
        (lambda mask: mask.astype(int) - 1, "0 to 4.*Received: -1"),
        (lambda mask: np.where(mask > 2, 250, mask).astype("uint8"), "0 to 4.*Received: 250"),
    ],
)
def test_masks_that_do_not_fit_are_named(change, words):
    (photo, mask), *others = examples()
    pairs = Pairs([*others, (photo, change(mask))])
    with pytest.raises(ValueError, match=f"{words}.*pair 2"):
        evaluate(Labels(), pairs)


@pytest.mark.parametrize("masks", [[], [np.full((4, 4), 255)]])
def test_without_a_pixel_that_counts_there_is_no_score(masks):
    with pytest.raises(ValueError, match="not ignored.*255.*Received: none"):
        score([np.zeros((4, 4), int)] * len(masks), masks, num_classes=2)


def test_predictions_that_are_no_classes_are_named():
    with pytest.raises(ValueError, match="Predictions must be one of the 2 classes.*2. In number 0"):
        score([np.array([[0, 2]])], [np.array([[0, 1]])], num_classes=2)
    with pytest.raises(ValueError):
        score([np.array([[0, 1]])] * 2, [np.array([[0, 1]])], num_classes=2)


def test_boolean_masks_of_two_classes_are_scored():
    truth = np.array([[True, True, False]])
    for found in (np.array([[True, False, False]]), np.array([[1, 0, 0]])):
        # Class 0 has 1 hit of 2, class 1 has 1 hit of 2.
        assert score([found], [truth], num_classes=2).iou.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("num_classes", [None, 1.5, "a", True, 0])
def test_a_number_of_classes_that_is_none_is_refused(num_classes):
    with pytest.raises(ValueError, match="`num_classes` must be a positive integer.*Received"):
        score([np.zeros((2, 2), int)], [np.zeros((2, 2), int)], num_classes)


def test_options_of_segment_are_passed_on():
    with pytest.raises(ValueError, match="`flip` must be"):
        evaluate(Labels(), examples(), flip="no")
    with pytest.raises(TypeError, match="scales"):
        evaluate(Labels(), examples(), scales=2)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's warnings")
def test_images_of_many_sizes_are_evaluated_without_warnings(caplog, recwarn):
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 8, strides=8, padding="same")(pixels)
    backbone = keras.Model(pixels, [features, features])
    model = EncNet(backbone, 3, head_channels=8, num_codes=2)
    sizes = [(32 + 8 * i, 40 + 4 * i) for i in range(12)]
    pairs = [(np.zeros((*size, 3), "uint8"), np.zeros(size, "uint8")) for size in sizes]
    logger = logging.getLogger("tensorflow")
    logger.addHandler(caplog.handler)
    try:
        evaluate(model, pairs)
        model.segment([image for image, _ in pairs] * 2, batch_size=3)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records and not list(recwarn)
