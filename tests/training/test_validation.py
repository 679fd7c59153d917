"""`val_miou` is the number that `evaluate` gives."""

import keras
import numpy as np
import pytest
from tiny import tiny

from keras_encnet import data
from keras_encnet.inference import evaluate
from keras_encnet.training import ValidationScores

EVALUATION = {"resize": [96, 48], "window": 40}


def scenes(count, seed):
    """Images of two sizes whose classes can be learnt: dark, red and bright stripes."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(count):
        mask = rng.integers(0, 3, (4 + i % 2, 6)).repeat(16, 0).repeat(16, 1).astype("uint8")
        colours = np.array([[20, 20, 20], [220, 40, 40], [230, 230, 230]], "uint8")
        pairs.append((colours[mask], mask))
    return data.Pairs(pairs)


def fitted(callbacks, **options):
    model = tiny(evaluation=EVALUATION)
    model.compile(keras.optimizers.Adam(0.01))
    batches = data.batches(scenes(8, 0), size=(64, 64), batch_size=4, augment=True, seed=0)
    history = model.fit(batches, epochs=3, verbose=0, callbacks=callbacks, **options)
    return model, history.history


def test_val_miou_is_the_number_that_evaluate_gives(tmp_path):
    validation = scenes(3, 1)
    seen = []
    file = tmp_path / "best.keras"
    callbacks = [
        ValidationScores(validation),
        keras.callbacks.ModelCheckpoint(file, monitor="val_miou", mode="max", save_best_only=True),
        keras.callbacks.EarlyStopping(monitor="val_miou", mode="max", patience=9),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["val_miou"])),
    ]
    model, history = fitted(callbacks)
    scores = evaluate(model, validation)
    assert history["val_miou"][-1] == scores.miou == callbacks[0].scores.miou
    assert history["val_pixel_accuracy"][-1] == scores.pixel_accuracy
    assert history["val_mean_accuracy"][-1] == scores.mean_accuracy
    assert seen == history["val_miou"] and len(set(seen)) > 1
    assert callbacks[2].best == max(seen)
    assert evaluate(keras.saving.load_model(file), validation).miou == max(seen)
    # Training is the same as without.
    for mine, other in zip(model.get_weights(), fitted([])[0].get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


def test_epochs_between_are_not_validated_and_batches_give_the_loss():
    validation = scenes(2, 1)
    batches = data.batches(validation, size=(64, 64), batch_size=2)
    callback = ValidationScores(validation, validation_freq=2, resize=False, window=False, flip=True)
    model, history = fitted([callback], validation_data=batches, validation_freq=2)
    assert len(history["val_miou"]) == len(history["val_loss"]) == 1 and len(history["miou"]) == 3
    assert history["val_miou"] == [callback.scores.miou]


class NoMasks(data.Pairs):
    has_masks = False


@pytest.mark.parametrize(
    "pairs, options, words",
    [
        (scenes(1, 0), {"report": "there"}, "writes no files.*`report`. Received: report='there'"),
        (scenes(1, 0), {"save_predictions": "there"}, "takes no `save_predictions`"),
        (scenes(1, 0), {"prediction_format": "rle"}, "takes no `prediction_format`"),
        ((pair for pair in scenes(1, 0)), {}, r"sequence.*Received: generator. Pass list\(pairs\)"),
        (NoMasks([(np.zeros((32, 32, 3), "uint8"), None)]), {}, "must have masks.*without masks"),
        ([], {}, "one pair or more. Received: none"),
    ],
)
def test_what_cannot_be_validated_is_refused_at_once(pairs, options, words):
    with pytest.raises(ValueError, match=words):
        ValidationScores(pairs, **options)


@pytest.mark.parametrize(
    "labels, options, words",
    [
        (["sky", "road"], {}, "2 class names in the data, and a model of 3"),
        (None, {"confidence": True}, "`confidence` has no place in the scores"),
        (None, {"limit": 0}, "`limit` must be a positive integer"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_training(labels, options, words):
    validation, epochs = data.Pairs(list(scenes(1, 0)), labels=labels), []
    seen = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    with pytest.raises(ValueError, match=words):
        fitted([seen, ValidationScores(validation, **options)])
    assert not epochs


@pytest.mark.parametrize("invalid", [0, 1.5, None])
def test_an_invalid_frequency_is_named(invalid):
    with pytest.raises(ValueError, match="`validation_freq` must be a positive integer. Received"):
        ValidationScores(scenes(1, 0), validation_freq=invalid)
