"""A baseline for networks: a classifier that sees only the colour and position of a pixel."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_encnet.inference.scoring import confusion_matrix, iou_of

BATCH = 2048
LEARNING_RATE = 0.01


def pixel_classifier_iou(
    train_pairs: Sequence,
    test_pairs: Sequence,
    num_classes: int,
    *,
    pixels: int = 160_000,
    steps: int = 500,
    seed: int = 0,
) -> np.ndarray:
    """IoU of each class on `test_pairs` for a classifier of single pixels.

    It is a small multilayer perceptron on colour (RGB, lightness, chromaticity) and position, trained
    with cross-entropy on random pixels of `train_pairs`. Rare classes get a bonus, the power of their
    inverse frequency with the best mean IoU on held-out pixels. What a network scores above this
    comes from texture, shape and context.

    Args:
        train_pairs: sequence of (image `uint8` `(height, width, 3)`, mask `(height, width)` of
            integers).
        test_pairs: the same for evaluation. All of their pixels are scored.
        num_classes: number of classes. Pixels with larger mask values are ignored.
        pixels: number of training pixels.
        steps: number of training steps, of 2048 pixels each.
        seed: seed of the choice of pixels and of the initial weights.

    Returns:
        `float64` `(num_classes,)`, NaN for a class that neither occurs nor is predicted.

    >>> from keras_encnet.demo import scenes
    >>> iou = pixel_classifier_iou(scenes(4), scenes(2, seed=1), 9, pixels=4000, steps=20)
    >>> iou.shape
    (9,)
    """
    rng = np.random.default_rng(seed)
    x, y = _random_pixels(rng, train_pairs, num_classes, -(-pixels // max(1, len(train_pairs))))
    held_out = len(y) // 8
    model = _classifier(x[held_out:], num_classes, steps, seed)
    picked = held_out + rng.integers(0, len(y) - held_out, steps * BATCH)
    model.fit(x[picked], y[picked], batch_size=BATCH, shuffle=False, verbose=0)

    prior = np.log(np.bincount(y, minlength=num_classes) / len(y) + 1e-6)
    logits = model.predict(x[:held_out], batch_size=held_out, verbose=0)

    def held_out_miou(bonus):
        predicted = (logits - bonus).argmax(1)
        return np.nanmean(iou_of(confusion_matrix(predicted, y[:held_out], num_classes)))

    bonus = max((power * prior for power in (0, 0.2, 0.4, 0.6, 0.8)), key=held_out_miou)
    confusion = np.zeros((num_classes, num_classes), "int64")
    for image, mask in test_pairs:
        predicted = (model.predict_on_batch(_features(image)) - bonus).argmax(1)
        truth = np.where(mask < num_classes, mask, num_classes).ravel()
        confusion += confusion_matrix(predicted, truth, num_classes, ignore_index=num_classes)
    return iou_of(confusion)


def _random_pixels(rng, pairs, num_classes, count):
    """The features and classes of `count` random pixels of each image, in random order."""
    features, labels = [], []
    for image, mask in pairs:
        valid = np.flatnonzero(mask.ravel() < num_classes)
        picked = rng.choice(valid, min(count, valid.size), replace=False)
        features.append(_features(image, picked))
        labels.append(mask.ravel()[picked].astype("int64"))
    order = rng.permutation(sum(map(len, labels)))
    return np.concatenate(features)[order], np.concatenate(labels)[order]


def _classifier(x, num_classes, steps, seed):
    def dense(units, activation, i):
        kernel = keras.initializers.HeNormal(seed + i)
        return keras.layers.Dense(units, activation, kernel_initializer=kernel)

    model = keras.Sequential(
        [
            keras.Input((x.shape[1],)),
            keras.layers.Normalization(mean=x.mean(0), variance=x.var(0)),
            dense(64, "relu", 0),
            dense(64, "relu", 1),
            dense(num_classes, None, 2),
        ]
    )
    rate = keras.optimizers.schedules.PolynomialDecay(LEARNING_RATE, steps, end_learning_rate=0.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate, beta_2=0.99), loss)
    return model


def _features(image, pixels=slice(None)):
    """The inputs of the classifier for some pixels (indices into the image in reading order) or for all
    of them, `float32` `(number of pixels, 11)`."""
    height, width = image.shape[:2]
    colour = image.reshape(-1, 3)[pixels].astype("float32") / 255
    total = colour.sum(1, keepdims=True)
    y, x = np.mgrid[0:height, 0:width].reshape(2, -1, 1)[:, pixels].astype("float32")
    x, y = 2 * x / width - 1, 2 * y / height - 1
    tint = colour[:, :2] / (total + 0.05)
    spread = colour.max(1, keepdims=True) - colour.min(1, keepdims=True)
    return np.concatenate([colour, total**0.5, tint, spread, x, x**2, y, y**2], 1)
