"""Evaluates a model on pairs of image and mask, as it was evaluated when its figures were published.

The images are independent, so a few threads treat one each: reading, resizing, deciding and scoring.
The network itself runs in one further thread, which these take turns to use.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_encnet.data.conventions import check_integer, class_names, labels_difference
from keras_encnet.data.pairs import Pairs
from keras_encnet.inference.predictions import Predictions
from keras_encnet.inference.records import checksum, open_journal, record_of, settings_of
from keras_encnet.inference.reports import conditions, write_report
from keras_encnet.inference.scoring import Scores, check_counted, confusion_matrix
from keras_encnet.inference.segmenting import segment
from keras_encnet.version import versions

MOST_WORKERS = 8  # by default; each holds an image and its logits


def evaluate(
    model: keras.Model,
    pairs: Iterable,
    *,
    report: str | os.PathLike | None = None,
    save_predictions: str | os.PathLike | None = None,
    prediction_format: str = "png",
    limit: int | None = None,
    workers: int | None = None,
    verbose: int | str = "auto",
    **how,
) -> Scores | None:
    """Scores `model.segment(image, **how)` on pairs of image and mask.

    With `report` or `save_predictions`, the result of each image is kept in that directory. If the
    process is stopped, the same call resumes with the images that are missing, and gives the same
    numbers. Images and masks that have changed since are done again.

    Args:
        model: an `EncNet`. Mask values that are its `ignore_index` are ignored.
        pairs: `keras_encnet.data.Pairs`, or another iterable of (image, mask). Masks are integers
            `(height, width)`, of the size of their image. If both have class names, these must be the
            model's.
        report: directory for `index.html`, which shows the figures and the best, median and worst
            images, `scores.json` and `per_image.csv`.
        save_predictions: directory for the label maps.
        prediction_format: `"png"` (with the classes' colours as palette), `"cityscapes"` (label ids for
            its server), `"ade20k"` (values from 1, for its server) or `"rle"` (one CSV file).
        limit: number of pairs to use, the first ones; all by default.
        workers: number of images that are treated at the same time; by default one more than there are
            processor cores, up to 8. The network sees one `batch_size` at a time in any case.
        verbose: 1 shows a progress bar with the mean IoU so far, 0 does not, and `"auto"` does in a
            terminal or notebook.
        **how: options of `segment`, without `confidence`; by default the image is seen as
            `model.evaluation` says.

    Returns:
        The `Scores`; or `None` if the pairs have no masks, and `save_predictions` is given.

    Raises:
        ValueError: if a mask does not fit its image or the classes; the pair is named. If all pixels
            are ignored, there are no pairs, or they have no masks and nothing is to be saved. If an
            image or an argument is invalid, or the classes of the pairs are not the model's. If a
            directory holds an evaluation of another model, other images or options.
        OSError: if a file cannot be read or written, or another evaluation uses a directory.

    >>> from keras_encnet import EncNet
    >>> pixels = keras.Input((None, None, 3))
    >>> features = keras.layers.Conv2D(8, 8, strides=8, padding="same")(pixels)
    >>> backbone = keras.Model(pixels, [features, features])
    >>> model = EncNet(backbone, num_classes=3, head_channels=8, num_codes=4)
    >>> image, mask = np.zeros((48, 70, 3), "uint8"), np.zeros((48, 70), "uint8")
    >>> scores = evaluate(model, [(image, mask)] * 4, limit=2)
    >>> scores.num_images, int(scores.confusion.sum()), scores.iou.shape
    (2, 6720, (3,))
    """
    check_evaluation(model, pairs, limit=limit, workers=workers, verbose=verbose, **how)
    if not save_predictions and prediction_format != "png":
        raise ValueError(
            "`prediction_format` needs `save_predictions`, the directory of the label maps. Received: "
            f"prediction_format={prediction_format!r} and no directory"
        )
    if verbose == "auto":
        # In notebooks as well, as Keras's own bar.
        verbose = int(sys.stdout.isatty() or "ipykernel" in sys.modules)
    if isinstance(pairs, Sequence) and not isinstance(pairs, Pairs):
        pairs = Pairs(pairs)
    _check_pairs(pairs, report, save_predictions)
    predictions = save_predictions and Predictions(save_predictions, prediction_format, model)
    count = min(len(pairs), limit or len(pairs)) if isinstance(pairs, Pairs) else None
    with contextlib.ExitStack() as stack:
        journals = _open_journals(stack, model, pairs, how, report, predictions)
        evaluation = _Evaluation(_OwnThread(model, stack), pairs, how, predictions, journals)
        if predictions:
            predictions.remove_leftovers([pairs.name(i) for i in range(count)])
        workers = workers or min(MOST_WORKERS, (os.cpu_count() or 1) + 1)
        pool = ThreadPoolExecutor(workers)
        stack.callback(pool.shutdown, cancel_futures=True)

        confusion, number, records = np.zeros([model.num_classes] * 2, "int64"), 0, []
        chunks = _chunks(itertools.islice(_readers(pairs), limit), how.get("batch_size", 1))
        bar = keras.utils.Progbar(count, verbose=verbose, stateful_metrics=["miou"], unit_name="image")
        for chunk in _in_order(pool, evaluation.records, chunks, ahead=2 * workers):
            for record in chunk:
                confusion += record.confusion
            number += len(chunk)
            records += chunk if report else []
            scores = Scores(class_names(model.num_classes, model.labels), confusion, number)
            bar.update(number, [("miou", scores.miou)] if evaluation.has_masks else [])
        if count is None:
            bar.update(number, finalize=True)
        if predictions:
            predictions.finish([pairs.name(i) for i in range(count)])
        if not evaluation.has_masks:
            return None
        check_counted(confusion, model.ignore_index)
        if report:
            write_report(
                report,
                scores,
                records,
                picture_of=evaluation.picture,
                title=f"Evaluation of {model.name}",
                how=conditions(model, pairs, how, limit),
                palette=model.palette,
            )
    return scores


class _Evaluation:
    """What the threads do with images; the results go to the journals."""

    def __init__(self, model, pairs, how, predictions, journals):
        self.model, self.pairs, self.how = model, pairs, how
        self.predictions, self.journals = predictions, journals
        self.has_masks = getattr(pairs, "has_masks", True)

    def records(self, chunk):
        """The `ImageRecord`s of a chunk, a list of indices and functions that read their pairs."""
        kept = [self._kept(i) for i, _ in chunk]
        if all(kept):
            return kept
        read = [read() for _, read in chunk]
        stamps = [self._stamp(i, *pair) for (i, _), pair in zip(chunk, read, strict=True)]
        where = self._where(chunk[0][0])
        if len(chunk) > 1:
            where = f"one of the {len(chunk)} images from {where} to {self._where(chunk[-1][0])}"
        with _named(where):
            results = segment(self.model, [image for image, _ in read], **self.how)
        return [
            self._keep(i, result, mask, stamp)
            for (i, _), result, (_, mask), stamp in zip(chunk, results, read, stamps, strict=True)
        ]

    def picture(self, i):
        """Image, mask and label map of pair `i`."""
        image, mask = self.pairs[i]
        result = segment(self.model, image, **self.how)
        return result.image, mask, result.label_map

    def _kept(self, i):
        """The record of an image that an earlier process has treated completely, or `None`."""
        kept = [journal.records.get(i) for journal in self.journals]
        if not kept or None in kept:
            return None
        if self.predictions and not self.predictions.path(self.pairs.name(i)).exists():
            return None
        stamp = self._stamp(i)
        return kept[0] if all(record.stamp == stamp for record in kept) else None

    def _stamp(self, i, image=None, mask=None):
        """A text that changes with pair `i`, whose image and mask are read if they are not given."""
        if not self.journals:
            return ""
        file, _ = self.pairs.files(i) or (None, None)
        if file and os.path.exists(file):
            status = os.stat(file)
            stamp = f"{status.st_size} bytes of {status.st_mtime_ns}"
        else:
            image = self.pairs.image(i) if image is None else image
            stamp = f"pixels {checksum([np.asarray(image)])}"
        if not self.has_masks:
            return stamp
        # The mask itself: the same file may be read with another `label_map`.
        mask = self.pairs.mask(i) if mask is None else mask
        return f"{stamp}, mask {checksum([np.asarray(mask, 'int32')])}"

    def _keep(self, i, result, mask, stamp):
        confusion = np.zeros([self.model.num_classes] * 2, "int64")
        if self.has_masks:
            with _named(self._where(i)):
                confusion = confusion_matrix(
                    result.label_map, mask, self.model.num_classes, self.model.ignore_index
                )
        is_pairs = isinstance(self.pairs, Pairs)
        record = record_of(
            confusion,
            index=i,
            name=self.pairs.name(i) if is_pairs else f"{i:06d}",
            source=self._where(i),
            size=result.label_map.shape,
            presence=result.presence,
            stamp=stamp,
        )
        if self.predictions:
            self.predictions.write(record.name, result)
        for journal in self.journals:
            journal.add(record)
        return record

    def _where(self, i):
        return self.pairs.where(i) if isinstance(self.pairs, Pairs) else f"pair {i}"


@contextlib.contextmanager
def _named(where):
    """Adds to errors where they come from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error} In {where}.") from error


# === Threads ===


class _OwnThread:
    """A model whose network runs in a thread of its own: two at once would take twice the memory, and
    some backends start their threads anew for each thread that calls them."""

    def __init__(self, model, stack):
        self._model = model
        self._thread = stack.enter_context(ThreadPoolExecutor(1))

    def __getattr__(self, name):
        return getattr(self._model, name)

    def coarse_logits(self, images):
        return self._thread.submit(self._model.coarse_logits, images).result()


def _readers(pairs):
    """The index of each pair, and a function that reads it."""
    if isinstance(pairs, Pairs):
        return ((i, functools.partial(pairs.__getitem__, i)) for i in range(len(pairs)))
    return ((i, functools.partial(tuple, pair)) for i, pair in enumerate(pairs))


def _chunks(items, size):
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _in_order(pool, function, items, ahead):
    """`function(item)` of each item, in their order; a pool begins with up to `ahead` of them."""
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# === Arguments ===


def check_evaluation(
    model: keras.Model,
    pairs: Iterable,
    *,
    limit: int | None = None,
    workers: int | None = None,
    verbose: int | str = "auto",
    **how,
) -> None:
    """Checks arguments of `evaluate`, without reading a pair.

    Raises:
        ValueError: if one is invalid, or the classes of the pairs are not the model's.
    """
    if isinstance(model, (str, os.PathLike)):
        raise ValueError(
            f"`model` must be an EncNet. Received: {model!r}. Load it: "
            f"EncNet.from_preset({os.fspath(model)!r})."
        )
    for name, value in (("limit", limit), ("workers", workers)):
        if value is not None:
            check_integer(name, value)
    if verbose not in (0, 1, 2, "auto"):
        raise ValueError(f"`verbose` must be 0, 1, 2 or 'auto'. Received: {verbose!r}")
    segment(model, [], **how)
    if how.get("confidence"):
        raise ValueError(
            "`confidence` has no place in the scores, so `evaluate` does not take it. Received: "
            "confidence=True. Call `model.segment` for it."
        )
    _check_labels(getattr(pairs, "labels", None), model)


def _check_labels(labels, model):
    if not labels:
        return
    if len(labels) != model.num_classes:
        raise ValueError(
            "The data must have as many classes as the model. Received: "
            f"{len(labels)} class names in the data, and a model of {model.num_classes} classes. Take "
            "a model of the data's classes, or fine-tune this one: EncNet.from_preset(..., "
            f"num_classes={len(labels)})."
        )
    if model.labels and tuple(labels) != tuple(model.labels):
        difference = labels_difference(labels, model.labels, ("in the data", "in the model"))
        raise ValueError(
            "The class names of the data must be those of the model, in the same order. Received: "
            f"{difference}. Read the data with `labels=model.labels`, and with a `label_map` if its "
            "mask values are in another order."
        )


def _check_pairs(pairs, report, save_predictions):
    if not isinstance(pairs, Pairs):
        if report or save_predictions:
            raise ValueError(
                "`report` and `save_predictions` need `Pairs`, or another sequence of (image, mask). "
                f"Received: {type(pairs).__name__}. Pass list(pairs)."
            )
        return
    if not len(pairs):
        raise ValueError("`pairs` must have one pair or more. Received: none")
    if not pairs.has_masks and (report or not save_predictions):
        raise ValueError(
            f"`pairs` must have masks to be scored. Received: {pairs!r}. To write label maps, pass "
            "`save_predictions` and leave `report` out."
        )


# === What an evaluation depends on ===


def _open_journals(stack, model, pairs, how, report, predictions):
    """The journals of the directories that are written to."""
    directories = {pathlib.Path(report).resolve(): {}} if report else {}
    if predictions:
        place = predictions.directory.resolve()
        directories.setdefault(place, {})["prediction format"] = predictions.format
    if not directories:
        return []
    settings = settings_of(model, pairs, how)
    return [
        stack.enter_context(open_journal(directory, {**settings, **more}, versions()))
        for directory, more in directories.items()
    ]
