"""Exports of annotation tools: masks, polygons and run-length codes, read as pairs."""

from keras_encnet.data.annotations.coco_files import coco
from keras_encnet.data.annotations.labelme_files import labelme
from keras_encnet.data.annotations.rle import from_kaggle_rle, kaggle_rle
from keras_encnet.data.annotations.rle_tables import rle_csv
from keras_encnet.data.annotations.voc_exports import voc, voc_splits

__all__ = ["coco", "from_kaggle_rle", "kaggle_rle", "labelme", "rle_csv", "voc", "voc_splits"]
