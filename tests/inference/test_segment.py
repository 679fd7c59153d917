import json
import math
import tracemalloc
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from fake_net import FakeNet, image
from PIL import Image

from keras_encnet import EncNet
from keras_encnet.inference import Segmentation, deciding, segment, segmenting
from keras_encnet.inference.geometry import Axis, block_of, evaluation_rule

GOLDEN = np.load(Path(__file__).with_name("golden.npz"))
RATIOS = (0.75, 1.0, 1.6)
SLIDE = {"resize": [200, 80], "window": [48, 64], "stride": [30, 41]}
OLD = {"resize": [200, 80], "protocol": "mmsegmentation-0.x"}
ENCODING = {"resize": 100, "window": 64, "stride": 42, "protocol": "pytorch-encoding"}
CASES = {
    "whole": (None, {}),
    "resized": ({"resize": [200, 80]}, {}),
    "slide": (SLIDE, {}),
    "flip": ({"resize": [200, 80]}, {"flip": True}),
    "ratios": ({"resize": [200, 80]}, {"ratios": RATIOS, "flip": True}),
    "ratios_slide": (SLIDE, {"ratios": RATIOS, "flip": True}),
    "ratios_old": (OLD, {"ratios": RATIOS, "flip": True}),
    "encoding_one": (ENCODING, {}),
    "encoding_all": (ENCODING, {"ratios": (0.5, *RATIOS), "flip": True}),
}
NAMES = [name.removesuffix("/labels") for name in GOLDEN if name.endswith("/labels")]


def case_of(name):
    case, corners = name.split("/")
    evaluation, arguments = CASES[case]
    return FakeNet(align_corners=corners == "True", evaluation=evaluation), arguments


def scores_of(model, pixels, ratios=(1.0,), flip=False):
    """The scores `(height, width, classes)` of which `segment` takes the argmax, in one piece."""
    size = pixels.shape[:2]
    rule = evaluation_rule(model.evaluation, ratios=ratios)
    views = segmenting.views_of(size, rule, ratios)
    ((score_maps, _),) = segmenting.run_views(model, [pixels], views, rule.protocol, flip, 1)
    total = 0
    for score_map in score_maps:
        scores = score_map.scores(*(score_map.block(axis, slice(0, size[axis])) for axis in (0, 1)))
        if len(score_maps) > 1 and not score_map.exponential:
            scores = np.exp(scores) / np.exp(scores).sum(0) / len(score_maps)
        total = total + scores
    return np.moveaxis(total, 0, -1)


def resize_matrix(old, new, corners):
    """The matrix `(new, old)` that resizes coarse samples to an axis of `new` pixels."""
    axis = Axis(new, new, 1, new, new, True)
    block = block_of(axis, np.arange(new)[None], old, corners, False)
    matrix = np.zeros((new, old), "float32")
    matrix[:, block.samples[0]] = block.inner[0]
    return matrix


class Constant:
    """A network with given logits."""

    def __init__(self, logits, align_corners=False, evaluation=None):
        self.logits = np.asarray(logits, "float32")
        self.num_classes = self.logits.shape[-1]
        self.align_corners, self.evaluation = align_corners, evaluation
        self.labels = self.palette = None

    def coarse_logits(self, images):
        return np.repeat(self.logits[None], len(images), 0), None


# === Against the reference code bases ===


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(23, 31), (56, 72), (4, 1), (7, 9)])
def test_blocks_agree_with_pytorchs_bilinear_resize(size, corners):
    values = GOLDEN["small"]
    for axis in (0, 1):
        matrix = resize_matrix(values.shape[0], size[axis], corners)
        values = np.moveaxis(np.tensordot(matrix, values, 1), 0, 1)
    expected = GOLDEN[f"interpolate/{corners}/{size[0]}x{size[1]}"]
    np.testing.assert_allclose(values, expected, atol=1e-5)  # of 4


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_labels_agree_with_the_reference_code_bases(name):
    model, arguments = case_of(name)
    expected = GOLDEN[f"{name}/scores"]
    scores = scores_of(model, image(), **arguments)[::6, ::6]
    assert np.abs(scores - expected).max() <= 2e-6 * np.abs(expected).max()
    labels = segment(model, image(), **arguments).label_map
    assert (labels != GOLDEN[f"{name}/labels"]).sum() <= 1


@pytest.mark.parametrize(
    "size, resize, expected",
    [
        ((1200, 1600), (2048, 512), (512, 683)),
        ((100, 1000), (2048, 512), (205, 2048)),
        ((1024, 2048), (2049, 1025), (1025, 2049)),
        ((1600, 1200), (2048, 512), (683, 512)),
        ((60, 80), (160, 999), (160, 213)),
    ],
)
def test_resize_fits_long_and_short_side(size, resize, expected):
    # By hand: the smaller of the two ratios, int(side * ratio + 0.5).
    model = FakeNet(evaluation={"resize": [5, 5]})
    segment(model, np.zeros((*size, 3), "uint8"), resize=resize)
    assert model.seen[0].shape == (1, *expected, 3)


def test_ratios_scale_the_image_in_1_2_2_and_resize_in_0_x():
    # A 60×80 image and [320, 90], by hand.
    pixels = np.zeros((60, 80, 3), "uint8")
    for protocol, expected in (
        ("mmsegmentation", [(90, 120), (120, 160)]),
        ("mmsegmentation-0.x", [(135, 180), (180, 240)]),
    ):
        model = FakeNet(evaluation={"resize": [320, 90]})
        segment(model, pixels, ratios=(1.5, 2.0), protocol=protocol)
        assert [seen.shape[1:3] for seen in model.seen] == expected


def test_pytorch_encodings_windows_are_black_beyond_the_image():
    model = FakeNet(evaluation=ENCODING | {"window": 128}, align_corners=True)
    segment(model, np.full((50, 100, 3), 200, "uint8"))
    (seen,) = model.seen
    assert seen.shape == (1, 128, 128, 3)
    assert (seen[0, :50, :100] == 200).all()
    assert seen.sum() == 50 * 100 * 3 * 200


def test_evaluation_survives_json():
    for evaluation in (SLIDE, OLD, ENCODING):
        again = json.loads(json.dumps(evaluation))
        expected = segment(FakeNet(evaluation=evaluation), image()).label_map
        got = segment(FakeNet(evaluation=again), image()).label_map
        np.testing.assert_array_equal(got, expected)


# === Deciding ===


def test_first_class_wins_ties():
    logits = np.zeros((5, 7, 4))
    logits[..., 1] = logits[..., 3] = 2
    for arguments in ({}, {"flip": True}, {"protocol": "pytorch-encoding"}):
        result = segment(Constant(logits), np.zeros((40, 56, 3), "uint8"), **arguments)
        assert (result.label_map == 1).all()
    assert (segment(Constant(logits * 0), np.zeros((40, 56, 3), "uint8")).label_map == 0).all()


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(130, 257), (64, 128), (401, 300)])
def test_tiles_and_dropped_classes_change_nothing(size, corners):
    # Against one dense matrix product per axis and NumPy's argmax.
    rng = np.random.default_rng(0)
    for classes, blocks in ((3, 1), (40, 4)):
        coarse = rng.normal(size=(math.ceil(size[0] / 8), math.ceil(size[1] / 8), classes))
        coarse = coarse.repeat(blocks, 0)[: len(coarse)].astype("float32")
        logits = coarse
        for axis in (0, 1):
            matrix = resize_matrix(coarse.shape[axis], size[axis], corners)
            logits = np.moveaxis(np.tensordot(matrix, logits, (1, axis)), 0, axis)
        result = segment(Constant(coarse, corners), np.zeros((*size, 3), "uint8"))
        second, first = np.sort(logits, -1)[..., -2:].transpose(2, 0, 1)
        sure = first - second > 1e-5
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(result.label_map[sure], logits.argmax(-1)[sure])


@pytest.mark.parametrize("classes, dtype", [(2, "uint8"), (255, "uint8"), (256, "uint16")])
def test_label_map_is_uint8_up_to_255_classes(classes, dtype):
    logits = np.zeros((4, 4, classes))
    logits[..., -1] = 1
    logits[0, 0, 0] = 2
    label_map = segment(Constant(logits), np.zeros((32, 32, 3), "uint8")).label_map
    assert label_map.dtype == dtype
    assert set(np.unique(label_map)) == {0, classes - 1}


def test_with_flip_a_mirrored_image_gives_mirrored_labels():
    pixels = image(64, 96)
    for evaluation in (None, {"window": 48, "stride": 48}, ENCODING | {"resize": 64}):
        model = FakeNet(evaluation=evaluation, align_corners=True)
        plain = segment(model, pixels, flip=True).label_map
        mirrored = segment(model, pixels[:, ::-1], flip=True).label_map
        assert (plain != mirrored[:, ::-1]).mean() < 1e-3


def test_arguments_override_evaluation():
    model = FakeNet(evaluation=SLIDE)
    plain = segment(FakeNet(), image()).label_map
    result = segment(model, image(), resize=False, window=False)
    np.testing.assert_array_equal(result.label_map, plain)
    assert [seen.shape for seen in model.seen] == [(1, 61, 97, 3)]
    segment(model, image(), window=64, stride=(20, 40))
    assert model.seen[1].shape == (1, 64, 64, 3)
    assert len(model.seen) == 1 + 2 * 3  # of 80×127: rows 0, 16; columns 0, 40, 63


def test_presence_is_the_mean_over_windows_ratios_and_flips():
    class Counting(FakeNet):
        def coarse_logits(self, images):
            logits, presence = super().coarse_logits(images)
            return logits, np.full_like(presence, len(self.seen))

    model = Counting(evaluation={"window": [61, 64], "stride": [61, 33]})
    presence = segment(model, image(), flip=True).presence
    assert presence.dtype == "float32"
    np.testing.assert_allclose(presence, np.full(5, 2.5))  # two windows, each twice: 1 2 3 4
    assert segment(FakeNet(presence=False), image()).presence is None


def test_scores_of_large_logits_stay_finite_in_pytorch_encodings_protocol():
    logits = np.zeros((4, 4, 3))
    logits[..., 2] = 70
    model = Constant(logits, evaluation={"protocol": "pytorch-encoding"})
    label_map = segment(model, np.zeros((32, 32, 3), "uint8"), flip=True).label_map
    assert (label_map == 2).all()


def test_without_evaluation_labels_are_the_argmax_of_predict():
    keras.utils.set_random_seed(0)
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(8, 8, strides=8, padding="same")(pixels)
    backbone = keras.Model(pixels, [features, features])
    model = EncNet(
        backbone, num_classes=5, head_channels=16, num_codes=4, align_corners=True, aux_head=False
    )
    result = model.segment(image())
    logits = model.predict(image()[None], verbose=0)[0]
    assert (result.label_map != logits.argmax(-1)).mean() < 1e-3
    assert len(np.unique(result.label_map)) > 1
    assert result.presence.shape == (5,)
    assert 0 <= result.presence.min() <= result.presence.max() <= 1


# === Confidence ===


def probabilities_of(name, arguments):
    """Probabilities of every sixth pixel, in float64, from what the reference code bases computed."""
    scores = GOLDEN[f"{name}/scores"].astype("float64")
    if not name.startswith("encoding"):
        if arguments:
            return scores  # the mean softmax
        scores = np.exp(scores)
    return scores / scores.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", NAMES)
def test_confidence_and_entropy_follow_from_the_scores_of_the_reference_code_bases(name):
    model, arguments = case_of(name)
    result = segment(model, image(), **arguments, confidence=True)
    assert result.confidence.dtype == result.entropy.dtype == "float32"
    assert result.confidence.shape == result.entropy.shape == (61, 97)
    expected = probabilities_of(name, arguments)
    np.testing.assert_allclose(result.confidence[::6, ::6], expected.max(-1), atol=1e-5)
    entropy = -(expected * np.log(expected)).sum(-1)
    np.testing.assert_allclose(result.entropy[::6, ::6], entropy, atol=2e-5)
    plain = segment(case_of(name)[0], image(), **arguments)
    np.testing.assert_array_equal(result.label_map, plain.label_map)


@pytest.mark.parametrize(
    "arguments, share",
    [
        ({}, 0.75),
        ({"flip": True}, 0.75),
        ({"ratios": (1, 2)}, 0.75),
        ({"protocol": "pytorch-encoding"}, 0.75),
        # exp(2 log 3) = 9, of 9 + 1
        ({"protocol": "pytorch-encoding", "flip": True}, 0.9),
    ],
)
def test_confidence_by_hand(arguments, share):
    logits = np.zeros((5, 7, 2))
    logits[..., 1] = math.log(3)
    pixels = np.zeros((40, 56, 3), "uint8")
    result = segment(Constant(logits), pixels, **arguments, confidence=True)
    assert (result.label_map == 1).all()
    np.testing.assert_allclose(result.confidence, share, atol=1e-6)
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    np.testing.assert_allclose(result.entropy, entropy, atol=1e-6)


@pytest.mark.parametrize("protocol", ["mmsegmentation", "pytorch-encoding"])
@pytest.mark.filterwarnings("error")
def test_certain_undecided_and_extreme_logits(protocol):
    pixels = np.zeros((32, 32, 3), "uint8")
    for logits, confidence, entropy in (
        ([-50, 50, -50, -50], 1, 0),
        ([3, 3, 3, 3], 0.25, math.log(4)),
        ([-1000, -1000, 2, -1000], 1, 0),
    ):
        for flip in (False, True):
            model = Constant(np.tile(logits, (4, 4, 1)))
            result = segment(model, pixels, protocol=protocol, flip=flip, confidence=True)
            np.testing.assert_allclose(result.confidence, confidence, atol=1e-6)
            np.testing.assert_allclose(result.entropy, entropy, atol=1e-6)
    # Their exponentials are 0 in float32.
    result = segment(Constant(np.full((4, 4, 3), -200)), pixels, protocol=protocol, confidence=True)
    assert np.isfinite(result.confidence).all() and np.isfinite(result.entropy).all()


def test_images_of_a_list_have_their_own_confidence():
    images = [image(), image(70, 50), image()[:, ::-1]]
    together = segment(FakeNet(), images, batch_size=2, confidence=True)
    for one, result in zip(images, together, strict=True):
        alone = segment(FakeNet(), one, confidence=True)
        np.testing.assert_array_equal(result.confidence, alone.confidence)
        np.testing.assert_array_equal(result.entropy, alone.entropy)


def test_without_confidence_nothing_of_it_is_computed(monkeypatch):
    monkeypatch.setattr(deciding, "_certainty", None)
    for arguments in ({}, {"flip": True}, {"protocol": "pytorch-encoding"}):
        result = segment(FakeNet(), image(), **arguments)
        assert result.confidence is None and result.entropy is None


# === Images in, results out ===


def test_a_list_gives_a_list_in_order_and_batches_change_nothing():
    images = [image(), image(70, 50), image()[:, ::-1], image(70, 50) // 2, image() // 3]
    alone = [segment(FakeNet(evaluation=SLIDE), one) for one in images]
    model = FakeNet(evaluation=SLIDE)
    together = segment(model, images, batch_size=4)
    assert isinstance(together, list) and isinstance(alone[0], Segmentation)
    assert max(len(seen) for seen in model.seen) == 4
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.label_map, other.label_map)
        np.testing.assert_allclose(one.presence, other.presence, rtol=1e-5)
        np.testing.assert_array_equal(one.image, other.image)
    assert len(segment(model, images[:1])) == 1
    assert segment(model, []) == []


def test_any_iterable_of_images_is_like_a_list():
    images = [image(), image(70, 50)]
    expected = [result.label_map for result in segment(FakeNet(), images)]
    for given in (
        tuple(images),
        iter(images),
        (one for one in images),
        dict(enumerate(images)).values(),
    ):
        results = segment(FakeNet(), given)
        assert isinstance(results, list) and len(results) == 2
        for result, label_map in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result.label_map, label_map)
    assert segment(FakeNet(), iter(())) == []


@pytest.mark.parametrize(
    "given, words",
    [
        ({"a": np.zeros((64, 64, 3), "uint8")}, "must be a path, a PIL image or an array.*dict"),
        ([(image(), image()[..., 0])], r"tuple \(number 0 of the list\).*for image, _ in pairs"),
        ([image(), [image()]], r"list \(number 1 of the list\)"),
        ([image(), np.full((64, 64, 3), np.nan)], "Number 1 of the list: .*NaN"),
        ([image(), np.full((64, 64, 3), 300)], "Number 1 of the list: .*300"),
        ([image(), np.stack([image(), image()])], r"Number 1 of the list: .*\(2, 61, 97, 3\)"),
        (None, "must be a path, a PIL image, or an array"),
        (np.zeros((64, 64, 3), bool), "bool"),
        (image()[..., 0] + 200.5, "from 208.*[0, 255]"),
    ],
)
def test_what_is_no_image_is_named(given, words):
    with pytest.raises(ValueError, match=words):
        segment(FakeNet(), given)


def test_grey_alpha_and_wide_values_are_read_as_read_image_does(tmp_path):
    grey = image()[..., 0]
    expected = segment(FakeNet(), np.stack([grey] * 3, -1)).label_map
    opaque = np.dstack([image(), np.full(grey.shape, 9, "uint8")])
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype("uint16") * 257).save(tmp_path / "wide.png")
    for given in (grey, grey[..., None], Image.fromarray(grey), grey.astype("float64")):
        np.testing.assert_array_equal(segment(FakeNet(), given).label_map, expected)
    for name in ("grey.png", "wide.png"):
        np.testing.assert_array_equal(segment(FakeNet(), tmp_path / name).label_map, expected)
    for given in (opaque, Image.fromarray(opaque), opaque.astype("float32")):
        np.testing.assert_array_equal(
            segment(FakeNet(), given).label_map, segment(FakeNet(), image()).label_map
        )
    with pytest.warns(UserWarning, match=r"\[0, 1\]"):
        segment(FakeNet(), grey / 255)


def test_a_window_that_is_larger_than_the_image_sees_all_of_it():
    model = FakeNet()
    result = segment(model, image(), window=(512, 64))
    assert {seen.shape for seen in model.seen} == {(1, 61, 64, 3)}
    model = FakeNet()
    result = segment(model, image(), window=512, stride=512)
    assert [seen.shape for seen in model.seen] == [(1, 61, 97, 3)]
    np.testing.assert_array_equal(result.label_map, segment(FakeNet(), image()).label_map)


def test_numbers_of_numpy_are_numbers():
    expected = segment(FakeNet(), image(), resize=(200, 80), window=64, flip=True, batch_size=2)
    found = segment(
        FakeNet(),
        image(),
        resize=np.array([200, 80]),
        window=np.int64(64),
        ratios=np.array([1.0], "float32"),
        flip=np.bool_(True),
        batch_size=np.int32(2),
    )
    np.testing.assert_array_equal(found.label_map, expected.label_map)


def test_path_pil_image_uint8_and_float_give_the_same(tmp_path):
    Image.fromarray(image()).save(tmp_path / "a.png")
    expected = segment(FakeNet(), image()).label_map
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(image()),
        image().astype("float32"),
    ):
        np.testing.assert_array_equal(segment(FakeNet(), source).label_map, expected)


def test_labels_and_palette_are_the_models_or_default():
    model = FakeNet()
    result = segment(model, image())
    assert result.labels == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert result.palette.shape == (5, 3) and result.palette.dtype == "uint8"
    model.labels, model.palette = list("abcde"), np.arange(15).reshape(5, 3).tolist()
    result = segment(model, image())
    assert result.labels == tuple("abcde")
    np.testing.assert_array_equal(result.palette, np.arange(15).reshape(5, 3))


# === Invalid input ===


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"resize": (2048, 512, 3)}, "resize.*pair"),
        ({"resize": True}, "resize"),
        ({"window": 16}, "window.*32 or more"),
        ({"window": 64, "stride": 65}, "stride.*larger than.*65"),
        ({"stride": 32}, "needs a `window`.*32"),
        ({"ratios": ()}, "ratios"),
        ({"ratios": (1.0, -1)}, "ratios"),
        ({"ratios": (0.5,)}, "61×97.*32 pixels or more.*31×49.*larger `ratios`"),
        ({"resize": (200, 80), "ratios": (0.75, 1.5)}, "no effect.*mmsegmentation-0.x"),
        ({"protocol": "mmseg"}, "protocol.*pytorch-encoding"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size.*True"),
        ({"batch_size": 1.0}, "batch_size.*1.0"),
        ({"flip": "no"}, "`flip` must be True or False.*'no'"),
        ({"flip": 1}, "`flip` must be True or False"),
        ({"confidence": 0.5}, "`confidence` must be True or False.*0.5"),
        ({"ratios": "1.0"}, "ratios.*'1.0'"),
        ({"ratios": ("0.5",)}, "ratios"),
        ({"ratios": True}, "ratios.*True"),
        ({"ratios": None}, "ratios.*None"),
        ({"ratios": (math.nan,)}, "ratios.*nan"),
        ({"resize": 0}, "resize.*0"),
        ({"resize": "512"}, "resize.*'512'"),
        ({"resize": (512.0, 256.0)}, "resize"),
        ({"resize": {512: 256}}, "resize"),
        ({"window": -64}, "window.*-64"),
        ({"stride": 0}, "needs a `window`"),
        ({"window": 64, "stride": 0}, "`stride` must be.*0"),
        ({"window": 64, "stride": False}, "`stride` must be.*False"),
        ({"window": (64, 48), "stride": (48, 64)}, "larger than `window`"),
        ({"protocol": ["mmsegmentation"]}, "protocol"),
    ],
)
def test_invalid_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        segment(FakeNet(), image(), **arguments)


def test_an_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="scales"):
        segment(FakeNet(), image(), scales=(1, 2))


def test_an_evaluation_that_is_no_dict_is_named():
    with pytest.raises(ValueError, match="`evaluation` must be a dict.*512"):
        segment(FakeNet(evaluation=[2048, 512]), image())


def test_unknown_key_of_evaluation_is_named():
    with pytest.raises(ValueError, match="'window'.*crop"):
        segment(FakeNet(evaluation={"crop": 480}), image())


def test_small_images_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="32 pixels or more.*31×97"):
        segment(FakeNet(), image()[:31])
    Image.fromarray(image()[:, :20]).save(tmp_path / "narrow.png")
    with pytest.raises(ValueError, match=r"narrow.png.*number 1 of the list.*61×20"):
        segment(FakeNet(), [image(), tmp_path / "narrow.png"])


def test_invalid_arrays_are_named():
    with pytest.raises(ValueError, match=r"\(2, 61, 97, 3\)"):
        segment(FakeNet(), np.stack([image(), image()]))
    bad = image().astype("float32")
    bad[3, 4, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        segment(FakeNet(), bad)
    with pytest.warns(UserWarning, match=r"\[0, 1\]") as caught:
        segment(FakeNet(), image() / 255)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment(FakeNet(), image().astype("float64"))


def test_non_finite_logits_are_an_error():
    with pytest.raises(ValueError, match="NaN or infinity"):
        segment(Constant(np.full((4, 4, 2), np.nan)), np.zeros((32, 32, 3), "uint8"))


# === Memory ===


class AnySize(Constant):
    def coarse_logits(self, images):
        height, width = (-(-side // 8) for side in images.shape[1:3])
        return self.logits[None, :height, :width], None


def peak_of_segment(size, **arguments):
    shape = (*(-(-side // 8) for side in size), 150)
    model = AnySize(np.random.default_rng(0).normal(size=shape))
    tracemalloc.start()
    try:
        segment(model, np.zeros((*size, 3), "uint8"), **arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"flip": True}, {"protocol": "pytorch-encoding"}])
def test_full_size_logits_are_never_made(arguments, confidence):
    # They would take 600 × 800 × 150 × 4 bytes = 288 MB; the coarse ones take 4.5 MB a view.
    assert peak_of_segment((600, 800), **arguments, confidence=confidence) < 72e6


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"window": 769, "stride": 513},
        {"resize": (2048, 512)},
        {"confidence": True},
        {"resize": (2048, 512), "confidence": True},
        {"window": 769, "stride": 513, "confidence": True},
    ],
)
def test_a_12_megapixel_photograph_with_150_classes_takes_less_than_1_gb(arguments):
    assert peak_of_segment((3000, 4000), **arguments) < 1e9
