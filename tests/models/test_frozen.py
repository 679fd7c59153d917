"""What is frozen stays frozen, of every kind and in every way, with the state of the optimizer."""

import copy
import pickle
import warnings

import keras
import numpy as np
import pytest

from keras_encnet import EncNet
from keras_encnet.training import SGD
from keras_encnet.training.freezing import freeze_batch_norms
from training.tiny import tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype="uint8")
MASKS = np.random.default_rng(1).integers(0, 3, (2, 32, 48), dtype="uint8")


def all_but_one(model):
    model.trainable = False
    model.get_layer("pixel_logits").trainable = True


def all_but_one_of_the_backbone(model):
    model.backbone.trainable = False
    model.backbone.get_layer("conv2").trainable = True


def heads(model):
    for name in ("bottleneck", "encoding", "encoding_norm", "gate", "aux_conv"):
        model.heads_network().get_layer(name).trainable = False


KINDS = {
    "backbone": lambda model: setattr(model.backbone, "trainable", False),
    "one layer": lambda model: setattr(model.backbone.get_layer("conv1"), "trainable", False),
    "all but one": all_but_one,
    "all but one of the backbone": all_but_one_of_the_backbone,
    "heads": heads,
    "network of the heads": lambda model: setattr(model.heads_network(), "trainable", False),
    "each layer": lambda model: [setattr(layer, "trainable", False) for layer in model.layers],
}


def through_file(model, directory):
    model.save(directory / "model.keras")
    return keras.saving.load_model(directory / "model.keras")


def through_preset(model, directory):
    model.save_to_preset(directory / "preset")
    return EncNet.from_preset(directory / "preset", num_classes=5)


WAYS = {
    "file": through_file,
    "preset for other classes": through_preset,
    "clone_model": lambda model, directory: keras.models.clone_model(model),
}


@pytest.mark.parametrize("freeze", KINDS.values(), ids=KINDS)
def test_every_kind_stays_frozen(tmp_path, freeze):
    model = tiny()
    freeze(model)
    paths = [weight.path for weight in model.trainable_weights]
    assert len(paths) < len(tiny().trainable_weights)
    for way in WAYS.values():
        again = way(model, tmp_path)
        assert [weight.path for weight in again.trainable_weights] == paths
        assert again.trainable == model.trainable
        assert again.backbone.trainable == model.backbone.trainable


@pytest.mark.parametrize(
    "way",
    [
        through_file,
        lambda model, _: pickle.loads(pickle.dumps(model)),
        lambda model, _: copy.deepcopy(model),
    ],
    ids=["file", "pickle", "deepcopy"],
)
def test_layers_frozen_after_training_keep_their_state_in_the_optimizer(tmp_path, way):
    model = tiny()
    model.compile(SGD(0.1))
    model.fit(IMAGES, MASKS, verbose=0)
    model.backbone.trainable = False
    if keras.backend.backend() == "jax":
        # Keras cannot train some of the variables that an optimizer knows: it starts again.
        with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
            again = way(model, tmp_path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras's, of a state that it leaves out
            again = way(model, tmp_path)
        assert len(again.optimizer.variables) == len(model.optimizer.variables)
        for old, new in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (old, new)))
    frozen = again.backbone.get_weights()
    again.fit(IMAGES, MASKS, verbose=0)
    for old, new in zip(frozen, again.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_weights_alone_fit_frozen_and_free_models(tmp_path):
    frozen, free = tiny(), tiny()
    frozen.backbone.trainable = False
    for source, target in ((frozen, free), (free, frozen)):
        source.set_weights([weight + 1 for weight in source.get_weights()])
        source.save_weights(tmp_path / "model.weights.h5")
        target.load_weights(tmp_path / "model.weights.h5")
        for old, new in zip(source.get_weights(), target.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    assert not frozen.backbone.trainable and free.backbone.trainable


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_frozen_statistics_stay_frozen(tmp_path, way):
    model = tiny()
    freeze_batch_norms(model)
    model.get_layer("bottleneck").frozen_statistics = False
    again = way(model, tmp_path)
    names = ["bottleneck", "encoding_norm", "aux_conv"]
    found = [again.heads_network().get_layer(name).frozen_statistics for name in names]
    assert found == [False, True, True]
    assert all(again.backbone.get_layer(f"conv{i}").frozen_statistics for i in (1, 2, 3))
    assert len(again.trainable_weights) == len(model.trainable_weights)
