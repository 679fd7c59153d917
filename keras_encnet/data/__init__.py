"""Images and their masks: where they come from, and how they reach `fit`."""

from keras_encnet.data.folders import camvid, folder
from keras_encnet.data.pairs import Pairs
from keras_encnet.data.scenes import scenes

__all__ = ["Pairs", "camvid", "folder", "scenes"]
