"""From coarse logits to label maps and probabilities, tile by tile: full-size logits never exist.

The class with the largest score wins. Scores and the probabilities that follow from them:

- mmsegmentation, one view: the logits, averaged where windows overlap; their softmax.
- mmsegmentation, several ratios or a flip: the sum of the views' softmax; their mean.
- PyTorch-Encoding: the windows' exponentials, averaged where windows overlap and added up over ratios;
  their shares of the sum over classes. With a flip the exponent is the sum of two logits, so
  these probabilities are nearer to 0 and 1 than those of a single softmax.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from keras_encnet.data.conventions import label_dtype
from keras_encnet.inference.geometry import Axis, block_of

TILE_SIDES = 64, 128  # pixels, for many classes and for few
TILE_SCORES = 1 << 19  # about as many fit into the processor's cache
TINY = np.finfo("float32").tiny


class ScoreMap(NamedTuple):
    """The coarse logits of one view, from which scores follow at any pixel.

    `logits` `(rows · h, columns · w, classes)` are those of all windows, one next to the other.
    `mirrored` tells whether they are the mirror image's."""

    logits: np.ndarray
    rows: Axis
    columns: Axis
    align_corners: bool
    exponential: bool
    mirrored: bool

    def block(self, axis: int, pixels: slice):
        """The `Block` that leads to `pixels` of an axis, 0 for rows and 1 for columns, without the
        dimension of runs: the coarse samples that are needed, and the matrices."""
        index = np.arange(pixels.start, pixels.stop)
        line = self[1 + axis]
        flipped = self.mirrored and axis == 1
        if flipped:
            index = line.size - 1 - index[::-1]
        coarse = self.logits.shape[axis] // line.count
        block = block_of(line, index[None], coarse, self.align_corners, self.exponential)
        samples, inner, shares, outer = (x if x is None else x[0] for x in block)
        if flipped:
            inner = inner[::-1]
        if self.exponential:
            windows = shares.any(1)
            inner = inner.reshape(*shares.shape, -1)[windows].reshape(-1, len(samples))
            shares = shares[windows]
        used = np.flatnonzero(inner.any(0))
        samples, inner = samples[used], np.ascontiguousarray(inner[:, used])
        if samples[-1] - samples[0] == len(samples) - 1:
            samples = slice(samples[0], samples[-1] + 1)
        return samples, inner, shares, outer

    def scores(self, row_block, column_block):
        """A tile's scores `(classes, height, width)`, from the blocks of its two axes."""
        in_y, y, shares_y, outer_y = row_block
        in_x, x, shares_x, outer_x = column_block
        scores = _product(y, self.logits[in_y][:, in_x], x)
        if not self.exponential:
            return scores
        # float32 overflows at 88, and the ratios' scores are still to be added up.
        np.exp(np.minimum(scores, 80, out=scores), out=scores)
        scores = scores.reshape(*scores.shape[:2], *shares_x.shape)
        scores = (scores * shares_x).sum(2)
        scores = scores.reshape(len(scores), *shares_y.shape, -1)
        scores = (scores * shares_y[:, :, None]).sum(1)
        if outer_y is not None:
            scores = outer_y @ scores
        return scores if outer_x is None else scores @ outer_x.T


def label_map_of(score_maps: list[ScoreMap], size: tuple, num_classes: int) -> np.ndarray:
    """The best class of each pixel, `(height, width)`, `uint8` up to 255 classes, else `uint16`."""
    label_map = np.empty(size, label_dtype(num_classes))

    def decide(tile, rows, columns):
        label_map[tile] = _winners(score_maps, rows, columns, label_map.dtype)

    _for_each_tile(score_maps, size, decide)
    return label_map


def confident_maps_of(
    score_maps: list[ScoreMap], size: tuple, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The label map, the probability of each pixel's class, and the entropy in nats of all its
    probabilities; the last two are `float32` `(height, width)`."""
    label_map = np.empty(size, label_dtype(num_classes))
    confidence, entropy = np.empty(size, "float32"), np.empty(size, "float32")

    def decide(tile, rows, columns):
        scores = _scores(score_maps, rows, columns)
        label_map[tile] = _argmax(scores, label_map.dtype)
        confidence[tile], entropy[tile] = _certainty(scores, _are_logits(score_maps))

    _for_each_tile(score_maps, size, decide)
    return label_map, confidence, entropy


def _for_each_tile(score_maps, size, decide: Callable):
    """Calls `decide(tile, rows, columns)` with the index and the blocks of each tile, in threads."""
    steps = [_tile_side(score_maps, axis, size[axis]) for axis in (0, 1)]
    strips, spans = (
        [slice(i, min(i + step, side)) for i in range(0, side, step)]
        for step, side in zip(steps, size, strict=True)
    )
    columns = [[each.block(1, xs) for each in score_maps] for xs in spans]

    def fill(ys):
        rows = [each.block(0, ys) for each in score_maps]
        for xs, blocks in zip(spans, columns, strict=True):
            decide((ys, xs), rows, blocks)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, strips))


def _tile_side(score_maps, axis, side):
    # Where windows are kept apart, a pixel may need many of the resized image's: fewer pixels then.
    lines = [each[1 + axis] for each in score_maps if each.exponential]
    zoom = max((line.count * line.length / side for line in lines), default=1)
    classes = score_maps[0].logits.shape[-1]
    tile = min(max(math.isqrt(TILE_SCORES // classes), TILE_SIDES[0]), TILE_SIDES[1])
    return max(4, int(tile / max(zoom, 1)))


def _are_logits(score_maps):
    return len(score_maps) == 1 and not score_maps[0].exponential


def _winners(score_maps, rows, columns, dtype):
    if not _are_logits(score_maps):
        return _argmax(_scores(score_maps, rows, columns), dtype)
    # A tile's scores lie between the extremes of the logits they come from, so a class whose maximum
    # is below another's minimum cannot win. Under strong enlargement most classes drop out.
    (in_y, y, *_), (in_x, x, *_) = rows[0], columns[0]
    logits = score_maps[0].logits[in_y][:, in_x]
    best, worst = logits.max((0, 1)), logits.min((0, 1))
    classes = np.flatnonzero(best >= worst.max())
    if len(classes) == 1:
        return classes[0]
    if len(classes) <= len(best) // 2:
        return classes.astype(dtype)[_argmax(_product(y, logits[..., classes], x), dtype)]
    return _argmax(_product(y, logits, x), dtype)


def _scores(score_maps, rows, columns):
    """A tile's scores `(classes, height, width)`, of all views together."""
    if _are_logits(score_maps):
        return score_maps[0].scores(rows[0], columns[0])
    total = 0
    for score_map, row_block, column_block in zip(score_maps, rows, columns, strict=True):
        scores = score_map.scores(row_block, column_block)
        if not score_map.exponential:
            _softmax(scores)
        total = total + scores
    return total


def _certainty(scores, are_logits):
    """The probability of the best class and the entropy; `scores` are overwritten."""
    if are_logits:
        scores -= scores.max(0)
        odds = np.exp(scores)
        total = odds.sum(0)
        odds *= scores
        return 1 / total, np.log(total) - odds.sum(0) / total
    # Exponentials of very small logits are 0, all of them perhaps.
    scores /= np.maximum(scores.sum(0), TINY)
    terms = np.log(np.maximum(scores, TINY))
    terms *= scores
    return scores.max(0), -terms.sum(0)


def _softmax(scores):
    """Turns scores into probabilities, in place."""
    scores -= scores.max(0)
    np.exp(scores, out=scores)
    scores /= scores.sum(0)


def _product(rows, values, columns):
    # One small matrix product per class: a large one would start threads inside these threads.
    values = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    return rows @ (values @ columns.T)


def _argmax(scores, dtype):
    """The first maximum along axis 0; several times faster than `np.argmax` there."""
    codes = (scores != scores.max(0)).astype(dtype)
    np.negative(codes, out=codes)
    codes |= np.arange(len(scores), dtype=dtype)[:, None, None]
    return codes.min(0)
