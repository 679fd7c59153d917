"""The demo: drawn street scenes, a network trained on them, and a baseline."""

from keras_encnet.demo.drawing import scenes
from keras_encnet.demo.pixel_classifier import pixel_classifier_iou

__all__ = ["pixel_classifier_iou", "scenes"]
