"""The public API of EncNet, on tiny models."""

import keras
import numpy as np
import pytest

from backend import numpy
from golden.weights import image
from keras_encnet import EncNet
from keras_encnet.models.resnet import backbone_by_name

ONE = image(0, 40, 56)[None]


def tiny(num_classes=3, **kwargs):
    options = {"width": 0.125, "head_channels": 8, "num_codes": 4, **kwargs}
    return EncNet("resnet18", num_classes, **options)


@pytest.fixture(scope="module")
def model():
    return tiny(labels=["sky", "road", "car"])


def test_logits_are_float32_at_the_images_own_size(model):
    for height, width in ((40, 56), (33, 47), (64, 32)):
        y = model.predict(image(1, height, width)[None], verbose=0)
        assert y.shape == (1, height, width, 3) and y.dtype == "float32"


def test_uint8_and_float_images_give_the_same(model):
    np.testing.assert_array_equal(
        model.predict(ONE, verbose=0), model.predict(ONE.astype("float32"), verbose=0)
    )


def test_call_predict_and_heads_agree(model):
    expected = model.predict(ONE, verbose=0)
    np.testing.assert_allclose(numpy(model(ONE)), expected, atol=1e-5)
    heads = model.heads(ONE)
    np.testing.assert_allclose(numpy(heads["logits"]), expected, atol=1e-5)
    assert {name: tuple(y.shape) for name, y in heads.items()} == {
        "logits": (1, 40, 56, 3),
        "aux": (1, 40, 56, 3),
        "se": (1, 3),
    }


def test_training_call_returns_the_heads(model):
    outputs = model(ONE, training=True)
    assert set(outputs) == {"logits", "aux", "se"}
    assert all(keras.backend.standardize_dtype(y.dtype) == "float32" for y in outputs.values())


def test_networks_share_the_models_weights(model):
    heads = model.heads_network().predict_on_batch(ONE.astype("float32"))
    assert set(heads) == {"logits", "aux", "se"}
    assert set(model.coarse_network().predict_on_batch(ONE.astype("float32"))) == {"coarse", "se"}
    ours = {id(weight) for weight in model.weights}
    for network in (model.heads_network(), model.coarse_network()):
        assert {id(weight) for weight in network.weights} <= ours
    assert len(model.heads_network().weights) == len(model.weights) == 139


def test_heads_that_a_model_lacks_are_absent():
    outputs = tiny(se_head=False, aux_head=False).heads(ONE)
    assert set(outputs) == {"logits"}


def test_coarse_logits_have_stride_8_and_presence_is_a_probability(model):
    logits, presence = model.coarse_logits(ONE)
    assert logits.shape == (1, 5, 7, 3) and presence.shape == (1, 3)
    se = numpy(model.heads(ONE)["se"])
    np.testing.assert_allclose(presence, 1 / (1 + np.exp(-se)), atol=1e-6)
    assert tiny(se_head=False).coarse_logits(ONE)[1] is None


def test_segment_is_the_argmax_of_the_logits(model):
    result = model.segment(ONE[0])
    logits = model.predict(ONE, verbose=0)[0]
    best = np.sort(logits, -1)
    clear = best[..., -1] - best[..., -2] > 1e-5
    assert (result.label_map == logits.argmax(-1))[clear].all()
    assert result.labels == ("sky", "road", "car") and result.presence.shape == (3,)


@pytest.mark.parametrize("output_stride,size", [(8, (5, 7)), (16, (3, 4)), (32, (2, 2))])
def test_output_stride(output_stride, size):
    model = tiny(output_stride=output_stride, laterals=True)
    assert model.coarse_logits(ONE)[0].shape[1:3] == size


def test_every_argument_is_an_attribute_and_in_the_config():
    given = {
        "labels": ["a", "b"],
        "palette": [[1, 2, 3], [4, 5, 6]],
        "ignore_index": 200,
        "num_codes": 5,
        "head_channels": 7,
        "width": 0.25,
        "output_stride": 16,
        "laterals": True,
        "se_head": False,
        "aux_head": False,
        "align_corners": True,
        "dropout": 0.3,
        "mean": [1.0, 2.0, 3.0],
        "std": [4.0, 5.0, 6.0],
        "evaluation": {"resize": [64, 32]},
    }
    model = EncNet("resnet18", 2, dtype="mixed_bfloat16", name="mine", **given)
    config = model.get_config()
    for name, value in given.items():
        assert config[name] == value, name
        assert np.array_equal(getattr(model, name), value), name
    assert config["backbone"] == "resnet18" and isinstance(model.backbone, keras.Model)
    assert model.dtype_policy.name == "mixed_bfloat16" and model.name == "mine"
    assert keras.config.dtype_policy().name == "float32"
    again = EncNet.from_config(config)
    assert again.get_config() == config
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_in_half_and_returns_float32(policy):
    model = tiny(dtype=policy)
    reference = tiny()
    reference.set_weights(model.get_weights())
    y, exact = model.predict(ONE, verbose=0), reference.predict(ONE, verbose=0)
    assert y.dtype == "float32" and model.get_layer("bottleneck").compute_dtype == policy[6:]
    assert np.abs(y - exact).max() < 0.05 * np.abs(exact).max()


def custom_backbone(as_dict=False):
    inputs = keras.Input((None, None, 3))
    maps = []
    x = inputs
    for i, channels in enumerate((4, 6, 8), 1):
        x = keras.layers.Conv2D(
            channels, 3, strides=2, padding="same", activation="relu", name=f"map{i}"
        )(x)
        maps.append(x)
    outputs = {f"c{i}": x for i, x in enumerate(maps)} if as_dict else maps
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("as_dict", [False, True])
def test_custom_backbone(as_dict, tmp_path):
    backbone = custom_backbone(as_dict)
    model = EncNet(backbone, 3, head_channels=8, laterals=True)
    assert model.backbone is backbone
    y = model.predict(ONE, verbose=0)
    assert y.shape == (1, 40, 56, 3)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again.predict(ONE, verbose=0), y, atol=1e-6)


def test_saving_keeps_every_output(tmp_path, model):
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    ours, theirs = model.heads(ONE), again.heads(ONE)
    for name, y in ours.items():
        np.testing.assert_allclose(numpy(theirs[name]), numpy(y), atol=1e-6)


def test_backbone_weights_from_a_file(tmp_path):
    source = tiny()
    source.backbone.save_weights(tmp_path / "b.weights.h5")
    model = tiny(backbone_weights=tmp_path / "b.weights.h5")
    for old, new in zip(source.backbone.get_weights(), model.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "name,depth,stem",
    [("resnet34", 34, (32, 32, 64)), ("resnet50s", 50, (64, 64, 128)), ("resnet152_v1", 152, (64,))],
)
def test_backbones_have_the_depth_and_stem_of_their_names(name, depth, stem):
    names = {layer.name: layer for layer in backbone_by_name(name, width=1 / 16).layers}
    stems = [layer.filters * 16 for key, layer in names.items() if key.startswith("stem_conv")]
    assert tuple(stems) == stem
    convs = [key for key in names if "_conv" in key and key.startswith("stage")]
    # A ResNet's depth counts convolutions without shortcuts, the stem as one, and the classifier.
    assert len(convs) + 2 == depth


def test_layer_names(model):
    names = [layer.name for layer in model.layers]
    assert names[:4] == ["images", "normalize", "resnet18", "bottleneck"]
    assert {"encoding", "gate", "pixel_logits", "upsample"} <= set(names)
    assert not any("." in layer.name for layer in model._flatten_layers())


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"backbone": "resnet5O"}, "`backbone`.*'resnet5O'.*Did you mean 'resnet50'"),
        ({"num_classes": 0}, "num_classes.*0"),
        ({"labels": ["a"]}, "labels.*3 names"),
        ({"palette": [[0, 0, 0]]}, "palette.*3 classes.*1 colour"),
        ({"ignore_index": 2}, "ignore_index.*255"),
        ({"ignore_index": -1}, "ignore_index"),
        ({"ignore_index": 255.5}, "ignore_index.*integer.*255.5"),
        ({"num_classes": True}, "num_classes.*True"),
        ({"num_classes": "3"}, "num_classes.*'3'"),
        ({"labels": "abc"}, "labels.*3 names.*'abc'"),
        ({"labels": [1, 2, 3]}, "labels.*3 names"),
        ({"palette": [[0.1, 0.5, 1.0]] * 3}, r"palette.*\[0, 1\].*255"),
        ({"palette": [[0, 0, 256]] * 3}, "palette.*256"),
        ({"num_codes": 0}, "num_codes.*positive integer.*0"),
        ({"head_channels": 8.5}, "head_channels.*positive integer.*8.5"),
        ({"dropout": 1}, "dropout.*less than 1.*1"),
        ({"dropout": "0.1"}, "dropout.*'0.1'"),
        ({"mean": [1, 2]}, r"mean.*three numbers.*\[1, 2\]"),
        ({"mean": [1, 2, float("nan")]}, "mean.*three numbers"),
        ({"std": [1, 0, 1]}, "std.*positive"),
        ({"laterals": "no"}, "laterals.*True or False.*'no'"),
        ({"align_corners": None}, "align_corners.*True or False"),
        ({"evaluation": {"size": 512}}, "evaluation.*size"),
        ({"output_stride": 4}, "output_stride.*8, 16, 32"),
        ({"width": 0}, "width"),
    ],
)
def test_invalid_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        EncNet(**{"backbone": "resnet18", "num_classes": 3, "width": 0.125, **arguments})


def test_a_backbone_without_feature_maps_is_named():
    with pytest.raises(ValueError, match="feature maps"):
        EncNet(keras.Sequential([keras.Input((None, None, 3))]), 3)


@pytest.mark.parametrize("given", [{"width": 0.5}, {"output_stride": 16}])
def test_arguments_for_named_backbones_are_refused_for_others(given):
    with pytest.raises(ValueError, match="given by name.*" + "=".join(map(str, *given.items()))):
        EncNet(custom_backbone(), 3, **given)


def test_images_may_be_given_by_name_or_in_a_list(model):
    expected = model.predict(ONE, verbose=0)
    for images in ({"images": ONE}, [ONE], (ONE,)):
        np.testing.assert_array_equal(model.predict(images, verbose=0), expected)
        np.testing.assert_allclose(numpy(model(images)), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"""\{"images": images\}.*Received: \['image'\]"""):
        model({"image": ONE})


@pytest.mark.parametrize(
    "images,message",
    [
        (ONE[0], r"\(batch, height, width, 3\)"),
        (np.zeros((1, 64, 64, 4), "uint8"), "4 channels"),
        (np.zeros((1, 31, 64, 3), "uint8"), "32"),
        (np.full((1, 40, 40, 3), np.nan, "float32"), "NaN"),
    ],
)
def test_invalid_images_are_named(model, images, message):
    with pytest.raises(ValueError, match=message):
        model.predict(images, verbose=0)


def test_tensors_get_the_static_checks(model):
    with pytest.raises(ValueError, match="32 pixels or more.*31×64"):
        model(keras.ops.zeros((1, 31, 64, 3)))
    with pytest.raises(ValueError, match=r"images\[None\]"):
        model(keras.ops.zeros((64, 64, 3)))


def test_float_images_up_to_one_are_warned_about(model):
    with pytest.warns(UserWarning, match="255"):
        model.predict((ONE / 255).astype("float32"), verbose=0)
