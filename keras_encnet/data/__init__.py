"""Images and masks: reading, checking, augmenting and batching them."""

from keras_encnet.data.annotations import coco, labelme, rle_csv, voc
from keras_encnet.data.batching import batches
from keras_encnet.data.checks import check_arrays, check_masks
from keras_encnet.data.datasets import ade20k, camvid, cityscapes, pascal_context, voc2012
from keras_encnet.data.folders import folder
from keras_encnet.data.pairs import Pairs, random_split
from keras_encnet.data.preview import show
from keras_encnet.data.sources import hf, tfds
from keras_encnet.data.survey import check

__all__ = [
    "Pairs",
    "ade20k",
    "batches",
    "camvid",
    "check",
    "check_arrays",
    "check_masks",
    "cityscapes",
    "coco",
    "folder",
    "hf",
    "labelme",
    "pascal_context",
    "random_split",
    "rle_csv",
    "show",
    "tfds",
    "voc",
    "voc2012",
]
