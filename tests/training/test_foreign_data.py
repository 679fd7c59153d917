"""Data sets that are not ours get the checks of arrays, in the same words, from the first batches."""

import warnings

import keras
import numpy as np
import pytest

from keras_encnet.data.advice import MaskError, MaskWarning
from keras_encnet.data.checks import check_arrays
from training.tiny import tiny

COUNT = 8  # batches
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (2 * COUNT, 32, 48, 3), dtype="uint8")
LABELS = RANDOM.integers(0, 3, (2 * COUNT, 32, 48), dtype="uint8")
BLACK_AND_WHITE = np.where(LABELS > 0, 255, 0).astype("uint8")


def generator(images, masks):
    for i in range(0, len(images), 2):
        yield images[i : i + 2], masks[i : i + 2]


def tensorflow_dataset(images, masks):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((images, masks)).batch(2)


def data_loader(images, masks):
    data = pytest.importorskip("torch.utils.data")
    return data.DataLoader(list(zip(images, masks, strict=True)), batch_size=2)


def grain_dataset(images, masks):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(list(zip(images, masks, strict=True))).batch(2)


SOURCES = (generator, tensorflow_dataset, data_loader, grain_dataset)
every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)


@pytest.fixture(scope="module")
def model():
    return compiled()


def compiled():
    model = tiny()
    model.compile("sgd")
    return model


class Count(keras.callbacks.Callback):
    """Counts batches; comes before the callback that warns."""

    trained = tested = 0

    def on_train_batch_end(self, batch, logs=None):
        self.trained += 1

    def on_test_batch_end(self, batch, logs=None):
        self.tested += 1


def first_warning(model, data, category=UserWarning, method="fit"):
    """The first warning of `fit` or `evaluate` about the data, and how many batches it saw before."""
    count = Count()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(Mask|Image)", category=category)
        with pytest.raises(category) as told:
            getattr(model, method)(data, callbacks=[count], verbose=0)
    return told.value, count.trained + count.tested


@every_source
def test_black_and_white_masks(model, source):
    with pytest.raises(MaskError) as error:
        model.fit(IMAGES, BLACK_AND_WHITE, verbose=0)
    warning, batches = first_warning(model, source(IMAGES, BLACK_AND_WHITE), MaskWarning)
    assert warning.readings == error.value.readings
    where = ", in the first 4 batches of the training data"
    assert warning.found.replace(where, "") == error.value.found and where in warning.found
    assert batches == 4


@every_source
def test_images_scaled_to_one(model, source):
    scaled = (IMAGES / 255).astype("float32")
    with pytest.warns(UserWarning) as told:
        check_arrays(scaled)
    warning, batches = first_warning(model, source(scaled, LABELS))
    assert str(warning).replace(", in the first batch of the training data", "") == str(told[0].message)
    assert batches == 1


# On JAX an error within a step takes the weights of a model away: the next two tests make one each.


@every_source
def test_one_hot_masks(source):
    model = compiled()
    one_hot = np.eye(3, dtype="float32")[LABELS]
    for data in ((IMAGES, one_hot), (source(IMAGES, one_hot), None)):
        with pytest.raises(
            ValueError, match=r"one-hot.*np.argmax\(masks, axis=-1\)|np.argmax.*one-hot"
        ):
            model.fit(*data, verbose=0)


@every_source
def test_channels_first(source):
    model = compiled()
    with pytest.raises(ValueError, match="channels-first: pass np.moveaxis"):
        model.evaluate(source(np.moveaxis(IMAGES, -1, 1), LABELS), verbose=0)


def test_labels_outside_the_classes_in_evaluation(model):
    warning, batches = first_warning(model, generator(IMAGES, LABELS + 1), MaskWarning, "evaluate")
    with pytest.raises(MaskError) as error:
        model.evaluate(IMAGES[:2], LABELS[:2] + 1, verbose=0)
    assert warning.readings == error.value.readings and batches == 1
    assert "in the first batch of the evaluation data. They are ignored." in warning.found


def test_no_batch_of_a_generator_is_lost(model):
    drawn = []

    def listening():
        for batch in generator(IMAGES, LABELS):
            drawn.append(batch)
            yield batch

    count = Count()
    model.fit(listening(), callbacks=[count], verbose=0)
    assert count.trained == len(drawn) == COUNT
