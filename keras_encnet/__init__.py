"""EncNet for Keras 3: a semantic segmenter to load, fine-tune and serve."""

import pathlib
import sys

from keras_encnet.version import __version__

__all__ = [
    "EncNet",
    "__version__",
    "data",
    "evaluate",
    "inference",
    "layers",
    "list_presets",
    "models",
    "training",
]


def _is_command():
    """Whether this process is `keras-encnet` or `python -m keras_encnet`."""
    program = pathlib.PurePath(sys.argv[0]).name
    # Python writes "-m" there while it looks for the module.
    as_module = program == "-m" and {"keras_encnet", "keras_encnet.cli"} & set(sys.orig_argv)
    return bool(as_module) or program in ("keras-encnet", "keras-encnet.exe")


# Keras takes seconds to import, which `keras-encnet --help` must not. Elsewhere the import is not put
# off until a name is used, because it also registers the classes for `keras.saving.load_model`.
if not _is_command():
    from keras_encnet import data, inference, layers, models, training
    from keras_encnet.inference import evaluate
    from keras_encnet.models.encnet import EncNet
    from keras_encnet.presets import list_presets
