"""`keras.models.clone_model` of an EncNet and of what it is in."""

import keras
import numpy as np
import pytest

from keras_encnet import EncNet
from keras_encnet.training import SGD
from training.tiny import tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype="uint8")
MASKS = np.random.default_rng(1).integers(0, 3, (2, 32, 48), dtype="uint8")


def test_a_clone_is_an_encnet_with_fresh_weights():
    model = tiny(labels=["sky", "road", "car"], palette=[[0, 0, 255], [9, 9, 9], [255, 0, 0]])
    model.get_layer("gate").trainable = False
    model.get_layer("gate").bias.assign(keras.ops.ones(8))
    clone = keras.models.clone_model(model)
    assert type(clone) is EncNet and clone.name == model.name and not clone.compiled
    assert clone.get_config() == model.get_config()
    assert not clone.get_layer("gate").trainable
    # Kernels are drawn anew, and nothing is shared.
    kernels = [keras.ops.convert_to_numpy(m.get_layer("bottleneck").kernel) for m in (model, clone)]
    assert kernels[0].std() == pytest.approx(kernels[1].std(), rel=0.2)
    assert not (kernels[0] == kernels[1]).any()
    assert not keras.ops.convert_to_numpy(clone.get_layer("gate").bias).any()
    assert not {id(v) for v in model.variables} & {id(v) for v in clone.variables}
    assert clone.segment(IMAGES[0]).labels == ("sky", "road", "car")


def test_a_clone_of_a_compiled_model_trains_alone():
    model = tiny()
    model.compile(SGD(0.125), aux_weight=0.3)
    model.fit(IMAGES, MASKS, verbose=0)
    before = model.get_weights()
    clone = keras.models.clone_model(model)
    assert clone.get_compile_config() == model.get_compile_config()
    assert clone.optimizer is not model.optimizer and int(clone.optimizer.iterations) == 0
    logs = clone.fit(IMAGES, MASKS, verbose=0).history
    total = logs["pixel_loss"][0] + 0.3 * logs["aux_loss"][0] + 0.2 * logs["se_loss"][0]
    assert logs["loss"][0] == pytest.approx(total, rel=1e-5)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("recursive", [False, True])
def test_an_encnet_within_a_model_is_cloned_as_one(recursive):
    images = keras.Input((None, None, 3))
    inner = tiny(name="inner")
    outer = keras.Model(images, keras.layers.Softmax()(inner(images)))
    clone = keras.models.clone_model(outer, recursive=recursive)
    again = clone.get_layer("inner")
    assert type(again) is EncNet and again is not inner
    shares = keras.ops.convert_to_numpy(clone(IMAGES)).sum(-1)
    np.testing.assert_allclose(shares, np.ones((2, 32, 48)), rtol=1e-5)


@pytest.mark.parametrize("name", ["input_tensors", "clone_function", "call_function"])
def test_what_a_clone_cannot_follow_is_refused(name):
    model = tiny()
    values = {
        "input_tensors": keras.Input((64, 64, 3)),
        "clone_function": lambda layer: type(layer).from_config(layer.get_config()),
        "call_function": lambda layer, *args, **kwargs: layer(*args, **kwargs),
    }
    with pytest.raises(ValueError, match=f"`{name}` must be None.*an EncNet.*heads_network"):
        keras.models.clone_model(model, **{name: values[name]})


def test_other_models_are_cloned_by_keras():
    model, seen = tiny(), []

    def copy(layer):
        seen.append(layer.name)
        return type(layer).from_config(layer.get_config())

    network = keras.models.clone_model(model.heads_network(), clone_function=copy)
    assert "bottleneck" in seen and type(network) is not EncNet
    assert network.count_params() == model.count_params()
