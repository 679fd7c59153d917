"""Images and their masks: where they come from, and how they reach `fit`."""

from keras_encnet.data.batches import batches
from keras_encnet.data.checks import check_arrays, check_masks
from keras_encnet.data.folders import camvid, folder
from keras_encnet.data.pairs import Pairs
from keras_encnet.data.scenes import scenes

__all__ = ["Pairs", "batches", "check_arrays", "check_masks", "camvid", "folder", "scenes"]
