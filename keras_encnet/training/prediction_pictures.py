import io
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import keras
import numpy as np
from PIL import Image

from keras_encnet.data.checks import check_mask, check_sizes
from keras_encnet.data.conventions import check_integer, class_names, class_palette
from keras_encnet.data.images import read_image
from keras_encnet.data.pairs import Pairs
from keras_encnet.files import replacing
from keras_encnet.inference.evaluation import check_evaluation
from keras_encnet.inference.pictures import comparison
from keras_encnet.inference.segmenting import segment

MOST = 16  # pairs in a picture


class PredictionPictures(keras.callbacks.Callback):
    """Shows image, truth and prediction of the same few pairs after each epoch, in one picture.

    A notebook shows the latest picture. With `directory` each is a file, `epoch-0001.png` and so on,
    with `tensorboard` TensorBoard shows them under "Images", and a run of Weights & Biases that is
    active gets them as "predictions".

    Args:
        pairs: one to sixteen pairs of image and mask: `keras_encnet.data.Pairs`, such as `pairs[:4]`,
            or another sequence. Without masks the picture has no truth.
        directory: where to write the files.
        every: number of epochs from one picture to the next.
        tensorboard: log directory of TensorBoard, as for `keras.callbacks.TensorBoard`.
        **how: options of `segment`; by default the images are seen as `model.evaluation` says.

    Raises:
        ValueError: if there are no pairs, or too many, or `every` is not a positive integer. When
            training begins: if an option is invalid, or the classes of the pairs are not the model's.
        ImportError: if TensorBoard is not installed, and `tensorboard` is given.

    >>> pair = np.zeros((48, 70, 3), "uint8"), np.zeros((48, 70), "uint8")
    >>> callback = PredictionPictures([pair], "pictures", every=5)
    >>> # model.fit(batches, epochs=40, callbacks=[callback])
    """

    def __init__(
        self,
        pairs: Pairs | Sequence,
        directory: str | os.PathLike | None = None,
        *,
        every: int = 1,
        tensorboard: str | os.PathLike | None = None,
        **how,
    ):
        super().__init__()
        check_integer("every", every, remedy="It is a number of epochs.")
        if not 1 <= len(pairs) <= MOST:
            raise ValueError(
                f"`pairs` must have 1 to {MOST} pairs. Received: {len(pairs)}. Pass pairs[:4], for "
                "instance."
            )
        self.pairs = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
        self.directory = None if directory is None else pathlib.Path(directory)
        self.every = every
        self.how = how
        self._tensorboard = None if tensorboard is None else _TensorBoard(tensorboard)
        self._display = None  # of a notebook

    def on_train_begin(self, logs=None):
        check_evaluation(self.model, self.pairs, **self.how)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        picture = self.picture(f"prediction, epoch {epoch + 1}")
        if self.directory is not None:
            with replacing(self.directory / f"epoch-{epoch + 1:04d}.png") as unfinished:
                picture.save(unfinished)
        if self._tensorboard:
            self._tensorboard.write(picture, epoch)
        self._show(picture)
        # Where a run is active, somebody has imported it.
        wandb = sys.modules.get("wandb")
        if wandb and wandb.run:
            wandb.log({"predictions": wandb.Image(picture), "epoch": epoch + 1})

    def on_train_end(self, logs=None):
        if self._tensorboard:
            self._tensorboard.close()

    def picture(self, title: str = "prediction") -> Image.Image:
        """The picture at the moment, with a legend of the classes in it.

        Args:
            title: heading of the predictions.
        """
        model = self.model
        rows = [self._row(i) for i in range(len(self.pairs))]
        maps = [label_map for _, *label_maps in rows for label_map in label_maps]
        # A legend of all classes would be larger than the pictures, where there are many.
        classes = np.unique(np.concatenate([each.ravel() for each in maps]))
        classes = classes[classes < model.num_classes]
        ignored = len(classes)
        index = np.full(max(model.num_classes, model.ignore_index) + 1, ignored)
        index[classes] = np.arange(len(classes))
        names = class_names(model.num_classes, model.labels)
        return comparison(
            [(image, *(index[each] for each in label_maps)) for image, *label_maps in rows],
            [names[i] for i in classes],
            class_palette(model.num_classes, model.palette)[classes],
            titles=("image", "truth", title) if self.pairs.has_masks else ("image", title),
            ignore_index=ignored,
        )

    def _row(self, i):
        """Image, truth and prediction; pixels that are no class are ignored."""
        model = self.model
        image, mask = self.pairs[i]
        image = read_image(image)
        label_map = segment(model, image, **self.how).label_map
        if not self.pairs.has_masks:
            return image, label_map
        mask = check_mask(mask, self.pairs.where(i))
        check_sizes(image.shape[:2], mask.shape, self.pairs.where(i))
        is_class = (mask >= 0) & (mask < model.num_classes)
        return image, np.where(is_class, mask, model.ignore_index), label_map

    def _show(self, picture):
        if "ipykernel" not in sys.modules:
            return
        from IPython.display import display

        # The same place each time: a notebook file would grow by a picture with each epoch.
        if self._display is None:
            self._display = display(picture, display_id=True)
        else:
            self._display.update(picture)


class _TensorBoard:
    """Writes pictures for TensorBoard, on every backend; Keras's own callback takes none."""

    def __init__(self, directory):
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: F401
        except ImportError as error:
            raise ImportError("`tensorboard` needs TensorBoard: pip install tensorboard") from error
        self.directory = pathlib.Path(directory) / "predictions"
        self._writer = None

    def write(self, picture, epoch):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        data = io.BytesIO()
        picture.save(data, "PNG")
        image = Summary.Image(
            width=picture.width,
            height=picture.height,
            colorspace=3,  # RGB
            encoded_image_string=data.getvalue(),
        )
        summary = Summary(value=[Summary.Value(tag="predictions", image=image)])
        self._writer = self._writer or EventFileWriter(str(self.directory))
        # Keras's callback counts epochs from 0 as well.
        self._writer.add_event(Event(wall_time=time.time(), step=epoch, summary=summary))
        self._writer.flush()

    def close(self):
        if self._writer:
            self._writer.close()
        self._writer = None
