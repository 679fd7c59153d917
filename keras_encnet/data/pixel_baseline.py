"""How far colour and position alone go: a per-pixel classifier to print beside a network."""

import numpy as np


def pixel_baseline(train_pairs, test_pairs, num_classes, *, pixels=160_000, steps=500, seed=0):
    """IoU of each class on `test_pairs` of a classifier that sees one pixel and where it lies.

    A small perceptron on colour (RGB, lightness, chromaticity) and position, trained on random
    pixels of `train_pairs` with cross-entropy. Rare classes get the head start (a power of their
    inverse frequency) that serves mean IoU best on pixels held out from training. What a network
    scores above it comes from texture, shape and context.

    Args:
        train_pairs: sequence of (image `uint8` (H, W, 3), mask integer (H, W)).
        test_pairs: the same, not seen in training; all of their pixels count.
        num_classes: number of classes; other values in a mask are left out.
        pixels: how many training pixels are drawn.
        steps: steps of training, of 2048 pixels each.
        seed: of the drawing and of the weights.

    Returns:
        `float64` (num_classes,), NaN for a class that is neither there nor predicted.

    >>> from keras_encnet.data.scenes import scenes
    >>> iou = pixel_baseline(scenes(4), scenes(2, seed=1), 9, pixels=4000, steps=20)
    >>> iou.shape
    (9,)
    """
    generator = np.random.default_rng(seed)
    share = -(-pixels // max(1, len(train_pairs)))
    features, labels = [], []
    for image, mask in train_pairs:
        seen = np.flatnonzero(mask.ravel() < num_classes)
        picked = generator.choice(seen, min(share, seen.size), replace=False)
        features.append(_features(image)[picked])
        labels.append(mask.ravel()[picked].astype("int64"))
    x, y = np.concatenate(features), np.concatenate(labels)
    centre, spread = x.mean(0), x.std(0) + 1e-6
    order = generator.permutation(len(y))
    x, y = ((x - centre) / spread)[order], y[order]
    held = len(y) // 8
    weights = _train(generator, x[held:], y[held:], num_classes, steps)

    prior = np.log(np.bincount(y, minlength=num_classes) / len(y) + 1e-6)
    guess = _forward(weights, x[:held])[-1]
    starts = [power * prior for power in (0, 0.2, 0.4, 0.6, 0.8)]
    scores = [_iou(_count(y[:held], (guess - s).argmax(1), num_classes)) for s in starts]
    start = starts[int(np.argmax([np.nanmean(s) for s in scores]))]

    counts = np.zeros((num_classes, num_classes), "int64")
    for image, mask in test_pairs:
        guess = _forward(weights, (_features(image) - centre) / spread)[-1] - start
        counts += _count(mask.ravel(), guess.argmax(1), num_classes)
    return _iou(counts)


def _features(image):
    height, width = image.shape[:2]
    colour = image.reshape(-1, 3).astype("float32") / 255
    total = colour.sum(1, keepdims=True)
    y, x = np.mgrid[0:height, 0:width].reshape(2, -1, 1).astype("float32")
    x, y = 2 * x / width - 1, 2 * y / height - 1
    tint = colour[:, :2] / (total + 0.05)
    spread = colour.max(1, keepdims=True) - colour.min(1, keepdims=True)
    return np.concatenate([colour, total**0.5, tint, spread, x, x**2, y, y**2], 1)


def _forward(weights, x):
    layers = [x]
    for i, (kernel, bias) in enumerate(weights):
        x = x @ kernel + bias
        layers.append(np.maximum(x, 0) if i + 1 < len(weights) else x)
        x = layers[-1]
    return layers


def _train(generator, x, y, num_classes, steps, batch=2048):
    sizes = (x.shape[1], 64, 64, num_classes)
    weights = []
    for n, m in zip(sizes, sizes[1:], strict=False):
        kernel = generator.standard_normal((n, m)).astype("float32") * (2 / n) ** 0.5
        weights.append([kernel, np.zeros(m, "float32")])
    moments = [[(np.zeros_like(w), np.zeros_like(w)) for w in layer] for layer in weights]
    for step in range(1, steps + 1):
        picked = generator.integers(0, len(y), batch)
        *layers, logits = _forward(weights, x[picked])
        logits -= logits.max(1, keepdims=True)
        slope = np.exp(logits)
        slope /= slope.sum(1, keepdims=True)
        slope[np.arange(batch), y[picked]] -= 1
        slope /= batch
        rate = 0.01 * (1 - (step - 1) / steps)
        for i in reversed(range(len(weights))):
            gradients = layers[i].T @ slope, slope.sum(0)
            slope = (slope @ weights[i][0].T) * (layers[i] > 0)
            for w, g, (first, second) in zip(weights[i], gradients, moments[i], strict=True):
                first += 0.1 * (g - first)
                second += 0.01 * (g * g - second)
                scale = (1 - 0.99**step) ** 0.5 / (1 - 0.9**step)
                w -= rate * scale * first / (np.sqrt(second) + 1e-8)
    return weights


def _count(truth, guess, num_classes):
    counted = truth < num_classes
    cells = num_classes * truth[counted].astype("int64") + guess[counted]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _iou(counts):
    hits = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)
