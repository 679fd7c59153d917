"""What a saved and loaded, pickled or copied model keeps besides the constructor's arguments."""

import copy
import pickle
import warnings

import keras
import numpy as np
import pytest

from golden.weights import image
from keras_encnet import EncNet

IMAGES = np.stack([image(0, 40, 56), image(1, 40, 56)])
MASKS = (IMAGES[..., 0] > 127).astype("uint8")


def tiny(backbone="resnet18", **options):
    width = {"width": 0.125} if isinstance(backbone, str) else {}
    return EncNet(backbone, 2, head_channels=8, num_codes=4, **width, **options)


def through_keras_file(model, directory):
    model.save(directory / "model.keras")
    return keras.saving.load_model(directory / "model.keras")


def through_preset(model, directory):
    model.save_to_preset(directory / "preset")
    return EncNet.from_preset(directory / "preset")


WAYS = {
    "file": through_keras_file,
    "preset": through_preset,
    "pickle": lambda model, directory: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, directory: copy.deepcopy(model),
    "json": lambda model, directory: keras.models.model_from_json(model.to_json()),
    "config": lambda model, directory: EncNet.from_config(model.get_config()),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def trainable(model):
    return [weight.path for weight in model.trainable_weights]


@every_way
def test_frozen_layers_stay_frozen(tmp_path, way):
    model = tiny()
    model.backbone.trainable = False
    model.backbone.get_layer("stage4_block2_conv2").trainable = True
    model.get_layer("gate").trainable = False
    again = way(model, tmp_path)
    assert trainable(again) == trainable(model)
    assert not again.backbone.trainable and not again.get_layer("gate").trainable
    assert again.backbone.get_layer("stage4_block2_conv2").trainable


def test_a_frozen_model_stays_frozen():
    model = tiny()
    model.trainable = False
    again = EncNet.from_config(model.get_config())
    assert not again.trainable and again.trainable_weights == []
    again.trainable = True
    assert len(again.trainable_weights) == len(tiny().trainable_weights)


@pytest.mark.parametrize("name", ["file", pytest.param("pickle", marks=pytest.mark.slow)])
def test_training_a_frozen_model_again_moves_what_it_moved_before(tmp_path, name):
    model = tiny()
    model.backbone.trainable = False
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(IMAGES, MASKS, verbose=0)
    again = WAYS[name](model, tmp_path)
    for old, new in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (old, new)))
    frozen, free = again.backbone.get_weights(), again.get_layer("bottleneck").get_weights()
    again.fit(IMAGES, MASKS, verbose=0)
    for old, new in zip(frozen, again.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(free[0], again.get_layer("bottleneck").get_weights()[0])


@keras.saving.register_keras_serializable("tests")
class Pair(keras.layers.Layer):
    """A layer that holds two others of one name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Conv2D(4, 1, name="conv")
        self.second = keras.layers.Conv2D(4, 1, name="conv")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 4))

    def call(self, inputs):
        return self.second(self.first(inputs))


def backbone_of_pairs():
    inputs = keras.Input((None, None, 3))
    shallow = Pair(name="shallow")(inputs)
    return keras.Model(inputs, [shallow, Pair(name="deep")(shallow)], name="pairs")


def test_layers_within_layers_of_ones_own_backbone_stay_frozen(tmp_path):
    model = tiny(backbone_of_pairs())
    model.backbone.get_layer("deep").second.trainable = False
    again = through_keras_file(model, tmp_path)
    assert trainable(again) == trainable(model)
    deep = again.backbone.get_layer("deep")
    assert deep.first.trainable and not deep.second.trainable


def test_a_config_is_not_changed_by_reading_it():
    config = tiny(backbone_of_pairs()).get_config()
    before = copy.deepcopy(config)
    EncNet.from_config(config)
    assert config == before


@pytest.mark.parametrize("name", ["preset", "deepcopy", "json"])
def test_changed_settings_of_layers_are_kept(tmp_path, name):
    model = tiny()
    model.get_layer("pixel_dropout").rate = 0.5
    model.get_layer("encoding_norm").momentum = 0.99
    model.get_layer("gate").kernel_regularizer = keras.regularizers.L2(0.25)
    model.get_layer("gate").activation = keras.activations.tanh
    again = WAYS[name](model, tmp_path)
    assert again.get_layer("pixel_dropout").rate == 0.5
    assert again.get_layer("encoding_norm").momentum == 0.99
    assert again.get_layer("gate").activation is keras.activations.tanh
    assert float(again.get_layer("gate").kernel.regularizer.l2) == 0.25
    assert again.get_config() == model.get_config()


def test_a_compiled_backbone_of_ones_own_is_saved_without_its_optimizer(tmp_path):
    backbone = backbone_of_pairs()
    backbone.compile("adam", "mse")
    model = tiny(backbone)
    assert "compile_config" not in str(model.get_config())
    again = through_preset(model, tmp_path)
    np.testing.assert_array_equal(again.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))


def test_settings_that_earlier_versions_ignored_are_ignored():
    config = {**tiny(backbone_of_pairs()).get_config(), "width": 0.5, "output_stride": 16}
    assert EncNet.from_config(config).width == 1


def test_a_backbone_that_is_a_model_is_used_not_copied():
    backbone = backbone_of_pairs()
    assert EncNet.from_config({"backbone": backbone, "num_classes": 2}).backbone is backbone


def test_a_config_opens_no_file():
    with pytest.raises(ValueError, match="backbone_weights.*None.*'b.weights.h5'"):
        EncNet.from_config({**tiny().get_config(), "backbone_weights": "b.weights.h5"})


def test_an_evaluation_rule_is_plain_data():
    evaluation = {"resize": [64, 32], "window": [32, 32]}
    config = tiny(evaluation=evaluation).get_config()
    assert type(config["evaluation"]) is dict and type(config["evaluation"]["resize"]) is list
    assert EncNet.from_config(config).get_config() == config


def test_an_unchanged_model_has_constructor_arguments_alone_in_its_config():
    assert not {"layers", "trainable"} & set(tiny().get_config())


@pytest.mark.parametrize(
    "mode,name",
    [
        ("int8", "preset"),
        pytest.param("int8", "file", marks=pytest.mark.slow),
        pytest.param("int4", "deepcopy", marks=pytest.mark.slow),
    ],
)
def test_quantized_models_are_loaded_quantized(tmp_path, mode, name):
    model = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras, about each layer that it cannot quantize
        model.quantize(mode)
    again = WAYS[name](model, tmp_path)
    assert again.get_layer("gate").dtype_policy.quantization_mode == mode
    np.testing.assert_array_equal(again.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))


def test_lora_is_kept():
    model = tiny()
    model.get_layer("gate").enable_lora(2)
    again = copy.deepcopy(model)
    assert trainable(again) == trainable(model) and again.get_layer("gate").lora_rank == 2


@pytest.mark.parametrize(
    "layers,message",
    [
        ({"resnet19": {"trainable": False}}, "layers of the model.*resnet19"),
        ({"gate": {"call": 1}}, "entries.*call.*gate"),
        ({"gate": {"lora_rank": 10**6}}, "rank is too large"),
        ({"gate": {"activation": 5}}, "valid for.*activation.*5.*gate"),
    ],
)
def test_invalid_changes_of_layers_are_named(layers, message):
    with pytest.raises(ValueError, match=message):
        EncNet.from_config({**tiny().get_config(), "layers": layers})
