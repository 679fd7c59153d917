"""Ten training steps, for two frameworks: their data, and how far a run is from an exact one.

A run is a dict of arrays: `pixel`, `aux` and `se` `(10,)`, the losses of the heads before they are
weighted; `rate` `(10,)`, the learning rates; and `update/<key>`, what the steps added to each entry of
mmsegmentation's state dict. It starts from the weights of `weights.state_dict(shapes, seed)`.
"""

import numpy as np

from golden.weights import image, noise

STEPS, CLASSES, CODES = 10, 7, 16
HEADS = ("pixel", "aux", "se")


def batch(seed, step, count, height, width):
    """Images and masks of one step, `uint8`: blocks of 5 of the 7 classes, and ignored pixels."""
    seeds = range(1000 * seed + count * step, 1000 * seed + count * (step + 1))
    images = np.stack([image(each, height, width) for each in seeds])
    blocks = noise("blocks", (count, -(-height // 8), -(-width // 8)), seeds[0])
    masks = np.floor((blocks + 1) / 2 * 5).astype("uint8").repeat(8, 1).repeat(8, 2)
    masks = masks[:, :height, :width] + (step % 3)
    masks[0, :, width // 3 : width // 2] = 255
    return images, masks


def deviations(run, exact):
    """How far each part of a run is from the exact one, relative to it.

    For a head the root mean square over the steps; for `weights` and `statistics` of the differences
    between updates, each relative to its array, over the arrays."""
    parts = {head: _relative(run[head], exact[head]) for head in HEADS}
    kinds = {"weights": [], "statistics": []}
    for key in exact:
        if key.startswith("update/"):
            kind = "statistics" if "running_" in key else "weights"
            kinds[kind].append(_relative(run[key], exact[key]))
    return parts | {kind: float(np.sqrt(np.mean(np.square(each)))) for kind, each in kinds.items()}


def _relative(found, exact):
    exact = np.asarray(exact, "float64")
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def sampled(run, count=24):
    """The run with up to `count` entries of each update, which are the same for every run."""
    return {key: _some(key, value, count) for key, value in run.items()}


def _some(key, value, count):
    if not key.startswith("update/"):
        return np.asarray(value)
    order = np.argsort(noise(f"{key}/entries", (value.size,)), kind="stable")
    return np.asarray(value).ravel()[np.sort(order[:count])]
