"""From a model to a file that a server or a phone runs, and the proof that both give the same."""

from keras_encnet.export.arguments import OUTPUTS
from keras_encnet.export.export import export_model
from keras_encnet.export.formats import FORMATS
from keras_encnet.export.runtimes import open_export
from keras_encnet.export.verification import verify

__all__ = ["FORMATS", "OUTPUTS", "export_model", "open_export", "verify"]
