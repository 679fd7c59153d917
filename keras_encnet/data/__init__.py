"""Images and masks: reading, checking, augmenting and batching them."""

from keras_encnet.data.batching import batches
from keras_encnet.data.checks import check_arrays, check_masks
from keras_encnet.data.datasets import camvid
from keras_encnet.data.folders import folder
from keras_encnet.data.pairs import Pairs

__all__ = ["Pairs", "batches", "check_arrays", "check_masks", "camvid", "folder"]
