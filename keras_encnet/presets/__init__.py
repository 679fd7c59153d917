"""Models by name or directory."""

from keras_encnet.presets.directory import load_preset, save_preset
from keras_encnet.presets.table import list_presets

__all__ = ["list_presets", "load_preset", "save_preset"]
