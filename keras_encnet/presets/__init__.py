"""Models by name or directory."""

from keras_encnet.presets.directory import save_preset
from keras_encnet.presets.hub import push_to_hub
from keras_encnet.presets.load import load_preset
from keras_encnet.zoo.table import list_presets

__all__ = ["list_presets", "load_preset", "push_to_hub", "save_preset"]
