"""Batches for `fit`, `evaluate` and `predict`: prepared in threads, reproducible to the step."""

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_encnet.data.checks import check_sizes
from keras_encnet.data.images import read_image
from keras_encnet.data.pairs import Pairs
from keras_encnet.data.transforms import augment as augmented
from keras_encnet.data.transforms import fit

AHEAD = 2  # batches in preparation while the model computes


def batches(
    pairs,
    *,
    size,
    batch_size,
    augment=False,
    seed=None,
    resize=None,
    scale=(0.5, 2.0),
    photometric=True,
    ignore_index=255,
):
    """Batches of images and masks, for `fit`, `evaluate` and `predict` on every backend.

    With `augment`, each epoch shuffles anew and draws new sizes, crops, flips and colours, all of
    them functions of the seed, the epoch and the position in it; the last batch is dropped unless
    full, and a set smaller than a batch is repeated to fill one. Without, the order is kept,
    nothing is left out, and each image is resized to lie within `size` and padded.

    Args:
        pairs: `keras_encnet.data.Pairs`, from `folder` for instance, or any sequence of
            (image, mask).
        size: `(height, width)` of the images in a batch. `None`, without `augment`, takes images as
            they are: batches then end where the size changes.
        batch_size: images in a batch.
        augment: whether to draw random crops, for training.
        seed: integer; `None` draws one, which `.seed` keeps.
        resize: `(long, short)`, sides into which images are fitted before the random resizing, as
            (2048, 512) for ADE20K; `None` starts from their own size.
        scale: smallest and largest ratio of the random resizing.
        photometric: whether brightness, contrast, saturation and hue are changed.
        ignore_index: the label of padding.

    Returns:
        `Batches`, of which `[i]` is the `i`th batch of the current epoch: images `uint8`
        `(batch, height, width, 3)` and masks `(batch, height, width)`, `uint8`, or `int32` from
        masks of 16 bits.

    Raises:
        ValueError: there are no pairs; `size`, `batch_size` or `seed` is not what it has to be.

    >>> pairs = [(np.zeros((40, 60, 3), "uint8"), np.ones((40, 60), "uint8"))] * 5
    >>> training = batches(pairs, size=(32, 48), batch_size=2, augment=True, seed=0)
    >>> images, masks = training[0]
    >>> len(training), images.shape, masks.shape
    (2, (2, 32, 48, 3), (2, 32, 48))
    >>> [len(images) for images, masks in batches(pairs, size=None, batch_size=2)]
    [2, 2, 1]
    """
    pairs = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
    if not len(pairs):
        raise ValueError("There are no pairs to make batches of.")
    if batch_size != int(batch_size) or batch_size < 1:
        raise ValueError(f"`batch_size` is the number of images in a batch; got {batch_size!r}.")
    if size is None and augment:
        raise ValueError("`augment` crops: give it `size`, (512, 512) for instance; got None.")
    if size is not None:
        size = tuple(int(side) for side in size)
        if len(size) != 2 or min(size) < 32:
            raise ValueError(f"`size` is (height, width), each 32 or more; got {size}.")
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    if seed < 0:
        raise ValueError(f"`seed` is an integer from 0 up; got {seed}.")

    def prepare(i, *at):
        image, mask = pairs[i]
        image = read_image(image)
        check_sizes(image.shape[:2], mask.shape, pairs.where(i))
        if augment:
            rng = np.random.default_rng([seed, *at])
            return augmented(
                rng,
                image,
                mask,
                size,
                resize=resize,
                scale=scale,
                photometric=photometric,
                ignore_index=ignore_index,
            )
        if size is None:
            return image, mask
        return fit(image, mask, size, ignore_index=ignore_index)

    return Batches(pairs, prepare, batch_size, size, augment, seed)


class Batches(keras.utils.PyDataset):
    """What `batches` returns: the stream of batches, and the place in it.

    Batch `k` of epoch `e` is global step `e * steps_per_epoch + k` and depends on nothing else:
    `start_at(step)` goes on from any step exactly as an uninterrupted run would have.

    Attributes:
        pairs: the pairs that the batches are made of.
        seed: of the random choices.
        steps_per_epoch: batches in a whole epoch.
        step: the global step of batch `[0]`. It moves on at the end of an epoch of `fit`.
    """

    # Keras's own worker threads (`workers` of 2 and more) hand out what they prefetched in an epoch
    # that was broken off, or only looked at, in the next one. With one worker Keras asks plainly
    # for a batch, and the threads here prepare by global step: no batch can take another's place.

    def __init__(self, pairs, prepare, batch_size, size, augment, seed):
        super().__init__(workers=1)
        self.pairs, self.batch_size, self.size = pairs, batch_size, size
        self.augment, self.seed = augment, seed
        self._prepare = prepare
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self._ahead = {}
        self._order = None, None
        if augment:
            self.steps_per_epoch = max(1, len(pairs) // batch_size)
        else:
            self._groups = _groups(pairs, batch_size, by_size=size is None)
            self.steps_per_epoch = len(self._groups)
        self.start_at(0)

    def start_at(self, step):
        """Goes on from global step `step`; an epoch begun before is finished first.

        `len` is then the number of batches left in that epoch. Keras fixes the length of epochs
        when `fit` begins: finish the epoch with one `fit` of one epoch, then call `fit` again.

        >>> pairs = [(np.zeros((32, 32, 3), "uint8"), np.ones((32, 32), "uint8"))] * 6
        >>> training = batches(pairs, size=(32, 32), batch_size=2, augment=True, seed=0)
        >>> len(training), len(training.start_at(4)), training.step
        (3, 2, 4)
        """
        if step != int(step) or step < 0:
            raise ValueError(f"`step` counts batches since the first epoch's first; got {step!r}.")
        self.step = int(step)
        self._drawn = None
        return self

    def __len__(self):
        return self.steps_per_epoch - self.step % self.steps_per_epoch

    def __getitem__(self, i):
        with self._lock:
            if self._drawn is not None:
                self._drawn += 1
            if not 0 <= i < len(self):
                raise IndexError(f"batch {i} of {len(self)}")
            step = self.step + i
            last = step + AHEAD if self.augment else min(step + AHEAD, self.step + len(self) - 1)
            ahead = self._ahead
            self._ahead = {s: ahead.get(s) or self._submit(s) for s in range(step, last + 1)}
            samples = self._ahead[step]
        images, masks = zip(*[sample.result() for sample in samples], strict=True)
        return np.stack(images), np.stack(masks)

    def on_epoch_begin(self):
        self.on_epoch_end()  # which Keras leaves out when training was stopped
        self._drawn = 0

    def on_epoch_end(self):
        # Keras calls this, too, when it has only looked at the first batches, for their shapes.
        drawn, self._drawn = self._drawn or 0, None
        if drawn == len(self):
            self.step += drawn
        elif drawn > 2:
            warnings.warn(
                f"An epoch was broken off after {drawn} of its {len(self)} batches; the next one "
                "starts at the first of them again. If `steps_per_epoch` did that, leave it out; "
                "to go on in the middle of an epoch call `start_at`, then `fit` for one epoch.",
                stacklevel=2,
            )

    def _submit(self, step):
        epoch, k = divmod(step, self.steps_per_epoch)
        if not self.augment:
            return [self._pool.submit(self._prepare, i) for i in self._groups[k]]
        if self._order[0] != epoch:
            self._order = epoch, self._shuffled(epoch)
        places = range(k * self.batch_size, (k + 1) * self.batch_size)
        order = self._order[1]
        return [self._pool.submit(self._prepare, order[p], epoch, p + 1) for p in places]

    def _shuffled(self, epoch):
        rng = np.random.default_rng([self.seed, epoch, 0])
        rounds = -(-self.batch_size // len(self.pairs))
        return [int(i) for _ in range(rounds) for i in rng.permutation(len(self.pairs))]

    def __repr__(self):
        return f"<{self.steps_per_epoch} batches of {self.batch_size} from {self.pairs!r}>"


def _groups(pairs, batch_size, by_size):
    """Indices of the pairs of each batch, in order; batches end where the image size changes."""
    groups, last = [], None
    for i in range(len(pairs)):
        size = tuple(pairs.image_size(i)) if by_size else None
        if not groups or size != last or len(groups[-1]) == batch_size:
            groups.append([])
        groups[-1].append(i)
        last = size
    return groups
