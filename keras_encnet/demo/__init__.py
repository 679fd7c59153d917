"""The demo: street scenes that are drawn, a network that learns them, and a baseline to beat."""

from keras_encnet.demo.drawing import scenes
from keras_encnet.demo.pixel_classifier import pixel_classifier_iou

__all__ = ["pixel_classifier_iou", "scenes"]
