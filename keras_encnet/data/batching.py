"""Batches for `fit`, `evaluate` and `predict`: prepared in threads and reproducible."""

import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_encnet.data.augmentation import (
    FLIP,
    MAX_CLASS_SHARE,
    PADDING,
    SCALE,
    check_augmentation,
    check_unused,
    transformed,
)
from keras_encnet.data.checks import check_has_masks, check_mask, check_sizes
from keras_encnet.data.conventions import IGNORE_INDEX, check_image_size, check_integer, is_integer
from keras_encnet.data.images import read_image
from keras_encnet.data.pairs import Pairs
from keras_encnet.data.transforms import augment as augmented
from keras_encnet.data.transforms import fit
from keras_encnet.data.workers import Workers

AHEAD = 2  # batches that are prepared while the model computes


def batches(
    pairs: Pairs | Sequence,
    *,
    size: tuple[int, int] | None,
    batch_size: int,
    augment: bool = False,
    transform: Callable | None = None,
    seed: int | None = None,
    resize: tuple[int, int] | Mapping | None = None,
    scale: tuple[float, float] = SCALE,
    antialias: bool = False,
    max_class_share: float = MAX_CLASS_SHARE,
    flip: float = FLIP,
    photometric: bool | Mapping = True,
    blur: float = 0.0,
    padding: Sequence[int] = PADDING,
    repeat: int = 1,
    ignore_index: int | None = None,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> "Batches":
    """Batches of images and masks, for `fit`, `evaluate` and `predict` on every backend.

    With `augment`, every epoch has a new order and new random sizes, crops, flips and colours. They
    depend only on the seed, the epoch and the position in the epoch. An incomplete last batch is
    dropped, and pairs are repeated if there are fewer than `batch_size`.

    Without `augment`, the order is kept, no image is left out, and each image is resized to fit
    into `size` and padded.

    A function of your own, `transform(rng, image, mask)`, comes before all this. It may take the place
    of any part: `augment=True, transform=f, scale=(1, 1), flip=0, photometric=False` leaves the new
    order, and crops or pads what `f` returns to `size`. It runs in several threads or processes at
    once, so it must take all random numbers from `rng`, and keep no state. With Albumentations:

        def f(rng, image, mask):
            steps = [A.Affine(rotate=(-20, 20), fill_mask=255), A.GaussNoise()]
            done = A.Compose(steps, seed=int(rng.integers(2**32)))(image=image, mask=mask)
            return done["image"], done["mask"]

    Args:
        pairs: `keras_encnet.data.Pairs`, from `folder` for instance, or any sequence of
            (image, mask).
        size: `(height, width)` of the images in a batch. `None`, without `augment`, keeps the sizes
            of the images. A batch then ends where the size changes.
        batch_size: number of images in a batch; with `shard` in those of all processes together.
        augment: whether to augment the images, for training.
        transform: called as `transform(rng, image, mask)` with a `numpy.random.Generator`, an image
            `uint8` `(height, width, 3)`, RGB, and its mask `(height, width)`; returns (image, mask)
            like these, of any size. If `size` is `None` it must keep the size. The checks before
            training see the masks without it.
        seed: integer. `None` chooses one at random, see the attribute `seed`.
        resize: `(long, short)` sides that images are fitted into before the random resizing, (2048,
            512) for ADE20K for instance; or the pixels of one side, {"short": 520} or {"long": 520}.
            `None` keeps their sizes.
        scale: smallest and largest ratio of the random resizing. `(1, 1)` turns it off.
        antialias: whether to antialias images that shrink, as Pillow does; OpenCV does not.
        max_class_share: crops in which one class has this share or more are drawn again, up to ten
            times. 1 allows every crop.
        flip: probability that an image is mirrored left to right. 0 turns it off.
        photometric: whether to change brightness, contrast, saturation and hue; or a dict of those to
            change and how far, {"brightness": 32, "contrast": (0.5, 1.5)} for instance.
        blur: probability of a Gaussian blur. 0 turns it off.
        padding: RGB colour that fills images which are smaller than the crop. For more about these
            eight see `keras_encnet.data.augmentation.check_augmentation`.
        repeat: how often each pair occurs in an epoch, more than once for a tiny data set.
        ignore_index: mask value of the padding. Default: that of the model that gets the batches, see
            `Batches.use_ignore_index`; 255 until then.
        workers: number of processes that prepare the images, on Linux. 0 uses threads, which are
            enough for a model on the same processor. For a GPU, give it as many as there are cores:
            threads keep little more than one core busy. The batches are the same.
        shard: `(index, count)` for process `index` of `count`, from 0: its part of each batch. Together
            the parts are the batch without `shard`, and all processes have the same steps.

    Returns:
        `Batches`. `[i]` is batch `i` of the current epoch: images `uint8` `(batch, height, width, 3)`
        and masks `(batch, height, width)`, `uint8`, or `int32` if they are from 16-bit files or
        `ignore_index` is above 255. For several devices, with `shard` or in `keras.distribution`, masks
        are `int32`, and incomplete batches are completed: by black images, ignored everywhere, whose
        weight in a third array, `float32` `(batch,)`, is 0 and not 1. A model's `evaluate` counts each
        image once.

    Raises:
        ValueError: if there are no pairs, they have no masks, or an argument is invalid or has no
            effect without `augment`. When batches are read: if a pair is invalid, or `transform`
            returns something else than an image and a mask.

    >>> pairs = [(np.zeros((40, 60, 3), "uint8"), np.ones((40, 60), "uint8"))] * 5
    >>> training = batches(pairs, size=(32, 48), batch_size=2, augment=True, seed=0)
    >>> images, masks = training[0]
    >>> len(training), images.shape, masks.shape
    (2, (2, 32, 48, 3), (2, 32, 48))
    >>> [len(images) for images, masks in batches(pairs, size=None, batch_size=2)]
    [2, 2, 1]
    >>> def turned(rng, image, mask):
    ...     quarters = rng.integers(4)
    ...     return np.rot90(image, quarters), np.rot90(mask, quarters)
    >>> training = batches(
    ...     pairs, size=(32, 32), batch_size=5, augment=True, transform=turned, flip=0, seed=0
    ... )
    >>> training[0][0].shape
    (5, 32, 32, 3)
    """
    pairs = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
    if not len(pairs):
        raise ValueError("`pairs` must not be empty. Received: no pairs")
    check_has_masks(pairs)
    check_integer("batch_size", batch_size)
    if not isinstance(augment, bool):
        own = " Pass a function of your own as `transform`." if callable(augment) else ""
        raise ValueError(f"`augment` must be True or False. Received: {augment!r}.{own}")
    if transform is not None and not callable(transform):
        raise ValueError(
            "`transform` must be a function, called as transform(rng, image, mask), or None. "
            f"Received: {transform!r}"
        )
    options = {
        "resize": resize,
        "scale": scale,
        "antialias": antialias,
        "max_class_share": max_class_share,
        "flip": flip,
        "photometric": photometric,
        "blur": blur,
        "padding": padding,
    }
    check_augmentation(**options)
    check_integer("repeat", repeat)
    if not augment:
        check_unused(**options, repeat=repeat)
    if size is None and augment:
        raise ValueError(
            "`size` must be the (height, width) of the crops if augment=True. Received: None. "
            "Give it, (512, 512) for instance."
        )
    if size is not None:
        if np.shape(size) != (2,) or not all(map(is_integer, size)):
            raise ValueError(f"`size` must be (height, width), two integers. Received: {size!r}")
        size = tuple(map(int, size))
        check_image_size(*size, "`size`", "Choose a larger one.")
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    check_integer("seed", seed, 0)
    check_integer("workers", workers, 0)
    if workers and size is None:
        raise ValueError(
            "`size` must be given with `workers`, which share memory for images of one size. Received: "
            f"size=None, workers={workers}. Leave `workers` out."
        )
    if ignore_index is not None:
        check_integer("ignore_index", ignore_index, 0)
    _check_shard(shard, batch_size)

    def prepare(ignore_index, i, epoch, position):
        image, mask = pairs[i]
        image, mask = read_image(image), check_mask(mask, pairs.where(i))
        original = mask.shape
        check_sizes(image.shape[:2], original, pairs.where(i))
        rng = np.random.default_rng([seed, epoch, position])
        if transform is not None:
            image, mask = transformed(transform, rng, image, mask, pairs.where(i))
        if augment:
            return augmented(rng, image, mask, size, ignore_index=ignore_index, **options)
        if size is not None:
            return fit(image, mask, size, ignore_index=ignore_index)
        if mask.shape != original:
            raise ValueError(
                "`transform` must keep the sizes of the images if `size` is None, because batches end "
                f"where they change. Received: {mask.shape} instead of {original} (height, width) for "
                f"{pairs.where(i)}. Give `batches` a `size`."
            )
        return image, mask

    return Batches(
        pairs,
        prepare,
        batch_size,
        size,
        augment,
        transform,
        seed,
        repeat,
        ignore_index,
        workers,
        shard,
    )


class Batches(keras.utils.PyDataset):
    """The batches that `batches` returns, and the current position in training.

    With `augment`, training is one long series of batches. Batch `k` of epoch `e` has the global
    step `e * steps_per_epoch + k`, and its content depends only on this number and the seed. So
    training can be resumed at any step: after `start_at(step)` the batches are those of an
    uninterrupted run.

    `[i]` and `len` are about the batches from `step` to the end of its epoch. `fit` advances `step`
    by one epoch at a time. Without `augment`, every epoch is the same and `step` does not advance.

    Attributes:
        pairs: the pairs that the batches are made of.
        batch_size: number of images in a batch of all processes.
        shard: `(index, count)` of this process.
        transform: the function of one's own, or `None`.
        seed: seed of the random choices.
        steps_per_epoch: number of batches in a complete epoch.
        step: global step of batch `[0]`.
        ignore_index: mask value of the padding.
        shared: whether several devices or processes have parts of each batch. The last one of a
            validation is then completed by black images with weight 0. `fit` and `evaluate` set it.
        length: how many batches `fit` calls an epoch; `None` for an epoch of the data.
    """

    # Keras's own worker threads (`workers` > 1) keep batches that they prefetched for an interrupted
    # epoch and return them in the next one. With one worker Keras only calls `__getitem__`. The
    # threads of this class prepare batches by global step, which cannot be confused.

    def __init__(
        self,
        pairs,
        prepare,
        batch_size,
        size,
        augment,
        transform,
        seed,
        repeat,
        ignore_index,
        workers,
        shard,
    ):
        super().__init__(workers=1)
        self.pairs, self.batch_size, self.size = pairs, batch_size, size
        self.shard, part = tuple(map(int, shard)), batch_size // shard[1]
        self.shared = shard[1] > 1
        self._part = slice(shard[0] * part, (shard[0] + 1) * part)  # of each batch
        self.augment, self.transform, self.seed, self.repeat = augment, transform, seed, repeat
        self.ignore_index = IGNORE_INDEX if ignore_index is None else ignore_index
        self._ignore_index_is_given = ignore_index is not None
        self._prepare_with = prepare
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self._processes = None
        if workers:
            self._processes = Workers(prepare, workers, size, batch_size=part, ahead=AHEAD + 1)
        self._ahead = {}  # global step: futures of its images and masks
        self._order = None, None  # an epoch, and the order of the pairs in it
        if augment:
            self.steps_per_epoch = max(1, len(pairs) * repeat // batch_size)
        else:
            self._groups = _groups(pairs, batch_size, by_size=size is None)
            self.steps_per_epoch = len(self._groups)
        self.length = None
        self.start_at(0)

    def start_at(self, step: int) -> "Batches":
        """Continues from global step `step`, and returns `self`.

        If that is in the middle of an epoch, `len` is the number of batches left in it. Keras fixes
        the length of epochs when `fit` begins: call `fit` for one epoch to finish this one, then
        call `fit` again.

        >>> pairs = [(np.zeros((32, 32, 3), "uint8"), np.ones((32, 32), "uint8"))] * 6
        >>> training = batches(pairs, size=(32, 32), batch_size=2, augment=True, seed=0)
        >>> len(training), len(training.start_at(4)), training.step
        (3, 2, 4)
        """
        check_integer("step", step, 0, "It counts the batches since the start of the first epoch.")
        self.step = int(step)
        self._drawn = None  # batches returned in this epoch of `fit`; `None` outside of one
        return self

    def read(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The images and masks of global step `step`, wherever the training is, which does not notice.

        >>> pairs = [(np.zeros((32, 32, 3), "uint8"), np.full((32, 32), i, "uint8")) for i in range(6)]
        >>> training = batches(pairs, size=(32, 32), batch_size=3, augment=True, scale=(1, 1), seed=0)
        >>> images, masks = training.read(2)
        >>> masks[:, 0, 0].tolist() == training.indices(2), training.step
        (True, 0)
        """
        check_integer("step", step, 0)
        with self._lock:
            places = self._places(step)
        # In threads: the workers' memory is for the steps of training.
        samples = [self._pool.submit(self._prepare, *place) for place in places]
        return _stacked(samples, self._size_at(step))

    def indices(self, step: int) -> list[int]:
        """The indices of the pairs in this process's part of the batch of global step `step`."""
        check_integer("step", step, 0)
        with self._lock:
            return [i for i, *_ in self._places(step)]

    def use_ignore_index(self, value: int) -> None:
        """Gives padding the mask value that a model ignores. `fit` and `evaluate` of a model call it.

        Args:
            value: the model's `ignore_index`.

        Raises:
            ValueError: if `batches` was called with another `ignore_index`.

        >>> pairs = [(np.zeros((40, 32, 3), "uint8"), np.ones((40, 32), "uint8"))]
        >>> validation = batches(pairs, size=(40, 40), batch_size=1)
        >>> validation.use_ignore_index(11)
        >>> sorted(set(validation[0][1].ravel().tolist()))
        [1, 11]
        """
        check_integer("ignore_index", value, 0)
        if value == self.ignore_index:
            return
        if self._ignore_index_is_given:
            raise ValueError(
                "Batches and model must have the same `ignore_index`. Received: "
                f"ignore_index={self.ignore_index} in `data.batches`, {value} in the model. Leave it "
                "out in `data.batches`: the model's is then used."
            )
        with self._lock:
            self.ignore_index = value
            self._ahead = {}  # prepared with another padding

    def __len__(self):
        return self.length or self.steps_per_epoch - self.step % self.steps_per_epoch

    def __getitem__(self, i):
        with self._lock:
            if self._drawn is not None:
                # `fit` of a Keras model shuffles the indices unless `shuffle=False` is passed. The
                # batches are in random order already, and must come in this order to be reproducible.
                i, self._drawn = self._drawn, self._drawn + 1
            if not 0 <= i < len(self):
                raise IndexError(f"The index must be from 0 to {len(self) - 1}. Received: {i}")
            step = self.step + i
            last = step + AHEAD if self.augment else min(step + AHEAD, self.step + len(self) - 1)
            ahead = self._ahead
            self._ahead = {s: ahead.get(s) or self._submit(s) for s in range(step, last + 1)}
            samples = self._ahead[step]
        images, masks = _stacked(samples, self._size_at(step))
        if not self.shared:
            return images, masks
        # The same dtype in every process.
        masks = masks.astype("int32")
        if self.augment or all(len(group) == self.batch_size for group in self._groups):
            return images, masks
        missing = self._part.stop - self._part.start - len(images)
        return (
            _completed(images, missing, 0),
            _completed(masks, missing, self.ignore_index),
            _completed(np.ones(len(images), "float32"), missing, 0),
        )

    # Keras calls these two at the start and end of an epoch, but also around the first one or two
    # batches that it reads for their shapes, and after an interruption it does not call
    # `on_epoch_end`. `step` therefore advances only if all batches of the epoch were drawn.

    def on_epoch_begin(self):
        self.on_epoch_end()
        self._drawn = 0 if self.augment else None

    def on_epoch_end(self):
        drawn, self._drawn = self._drawn or 0, None
        if drawn == len(self):
            self.step += drawn
        elif drawn > 2:
            warnings.warn(
                f"An epoch ended after {drawn} of its {len(self)} batches. The next one starts again "
                "with the first of them. Leave out `steps_per_epoch` if that was the reason. To "
                "resume in the middle of an epoch call `start_at`, then `fit` for one epoch.",
                stacklevel=2,
            )

    def _prepare(self, i, epoch, position):
        return self._prepare_with(self.ignore_index, i, epoch, position)

    def _submit(self, step):
        """Starts preparing the batch of a global step; returns a future for each pair."""
        places = self._places(step)
        if self._processes:
            return self._processes.submit(step, [(self.ignore_index, *place) for place in places])
        return [self._pool.submit(self._prepare, *place) for place in places]

    def _places(self, step):
        """The index, and the epoch and position for the seed, of each pair of a global step."""
        epoch, k = divmod(step, self.steps_per_epoch)
        # Position 0 of the seeds belongs to the shuffling.
        if not self.augment:
            return [(i, 0, i + 1) for i in self._groups[k][self._part]]
        if self._order[0] != epoch:
            self._order = epoch, self._shuffled(epoch)
        order = self._order[1]
        positions = range(k * self.batch_size, (k + 1) * self.batch_size)[self._part]
        return [(order[p], epoch, p + 1) for p in positions]

    def _size_at(self, step):
        """Height and width of the images of a global step."""
        if self.size is not None:
            return self.size
        return self.pairs.image_size(self._groups[step % self.steps_per_epoch][0])

    def _shuffled(self, epoch):
        rng = np.random.default_rng([self.seed, epoch, 0])
        rounds = max(self.repeat, -(-self.batch_size // len(self.pairs)))
        return [int(i) for _ in range(rounds) for i in rng.permutation(len(self.pairs))]

    def __repr__(self):
        return f"<{self.steps_per_epoch} batches of {self.batch_size} from {self.pairs!r}>"


def _check_shard(shard, batch_size):
    if np.shape(shard) != (2,) or not all(map(is_integer, shard)) or not 0 <= shard[0] < shard[1]:
        raise ValueError(
            "`shard` must be (index, count), the number of a process, from 0, and how many there are. "
            f"Received: {shard!r}"
        )
    if batch_size % shard[1]:
        raise ValueError(
            "`batch_size` must be a multiple of the number of processes, because it is that of all of "
            f"them together. Received: batch_size={batch_size}, shard={shard!r}"
        )


def _stacked(samples, size):
    """The batch of futures of images and masks, which have `size` if there are none."""
    if not samples:
        return np.zeros((0, *size, 3), "uint8"), np.zeros((0, *size), "uint8")
    images, masks = zip(*[sample.result() for sample in samples], strict=True)
    return np.stack(images), np.stack(masks)


def _completed(array, missing, value):
    return np.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1)), constant_values=value)


def _groups(pairs, batch_size, by_size):
    """Indices of the pairs of each batch, in order. `by_size` ends batches where the size changes."""
    groups, last = [], None
    for i in range(len(pairs)):
        size = tuple(pairs.image_size(i)) if by_size else None
        if not groups or size != last or len(groups[-1]) == batch_size:
            groups.append([])
        groups[-1].append(i)
        last = size
    return groups
