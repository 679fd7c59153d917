"""Label maps as files: palette PNGs, and what the servers of data sets take."""

import csv
import os
import pathlib
import re
import shutil

import keras
import numpy as np
from PIL import Image

from keras_encnet.data.annotations.rle import kaggle_rle
from keras_encnet.files import remove_leftovers, replacing
from keras_encnet.inference.records import FOLDER
from keras_encnet.inference.segmentation import Segmentation

# Cityscapes' label ids of the 19 classes. Its server takes these back.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_NAME = re.compile(r"[^_]+_\d{6}_\d{6}")  # city, sequence and frame begin a file's name
NUM_CLASSES = {"cityscapes": 19, "ade20k": 150}  # of the formats that belong to a data set

FORMATS = ("png", "cityscapes", "ade20k", "rle")


class Predictions:
    """A directory of label maps, one file for each image, in one of `FORMATS`:

    - `"png"`: `NAME.png`, a PNG file with the classes' colours as its palette.
    - `"cityscapes"`: PNG files of label ids, in one directory, for Cityscapes' server. Their names
      begin with city, sequence and frame, as those of the images do.
    - `"ade20k"`: `NAME.png`, grey PNG files of the values 1 to 150, for ADE20K's server.
    - `"rle"`: `predictions.csv`, with a row of `ImageId, ClassId, EncodedPixels` for each class of an
      image, as Kaggle has it: pairs of start and length, from 1, column by column.

    Args:
        directory: where to write.
        format: one of the above.
        model: the model, whose classes must be those of the format's data set.

    Raises:
        ValueError: if there is no such format, or the model has other classes than it needs.
    """

    def __init__(self, directory: str | os.PathLike, format: str, model: keras.Model):
        if format not in FORMATS:
            raise ValueError(
                f"`prediction_format` must be one of {', '.join(FORMATS)}. Received: {format!r}"
            )
        needed = NUM_CLASSES.get(format, model.num_classes)
        if model.num_classes != needed:
            raise ValueError(
                f"`prediction_format={format!r}` needs a model of the {needed} classes of that data "
                f"set. Received: a model of {model.num_classes} classes. Use 'png'."
            )
        self.directory = pathlib.Path(directory)
        self.format = format

    def path(self, name: str) -> pathlib.Path:
        """The file of the image with this name.

        Raises:
            ValueError: if a server would not find the image by it.
        """
        if self.format == "rle":
            return self.directory / FOLDER / "rle" / f"{name}.csv"
        if self.format != "cityscapes":
            return self.directory / f"{name}.png"
        name = name.rpartition("/")[2]
        if not CITYSCAPES_NAME.match(name):
            raise ValueError(
                "Names of images for Cityscapes' server must begin with city, sequence and frame, such "
                f"as 'berlin_000000_000019'. Received: {name!r}"
            )
        return self.directory / f"{name}.png"

    def remove_leftovers(self, names: list[str]) -> None:
        """Removes what a killed process left where the files of these images are."""
        for parent in {self.path(name).parent for name in names}:
            remove_leftovers(parent / "*")

    def write(self, name: str, result: Segmentation) -> None:
        """Writes the label map of one image.

        Raises:
            OSError: if the file cannot be written.
        """
        path = self.path(name)
        if self.format == "png":
            result.save(path)
        elif self.format == "rle":
            _write_rows(path, name, result.label_map)
        else:
            values = CITYSCAPES_IDS if self.format == "cityscapes" else range(1, 151)
            values = np.array(values, "uint8")[result.label_map]
            with replacing(path) as unfinished:
                Image.fromarray(values).save(unfinished, format="PNG")

    def finish(self, names: list[str]) -> None:
        """Makes one file of those of these images, where the format is one file.

        Raises:
            OSError: if the file cannot be written.
        """
        if self.format != "rle":
            return
        with replacing(self.directory / "predictions.csv") as unfinished, unfinished.open("wb") as file:
            file.write(b"ImageId,ClassId,EncodedPixels\r\n")
            for name in names:
                with self.path(name).open("rb") as part:
                    shutil.copyfileobj(part, file)


def _write_rows(path, name, label_map):
    rows = [(name, label, kaggle_rle(label_map == label)) for label in np.unique(label_map)]
    with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
