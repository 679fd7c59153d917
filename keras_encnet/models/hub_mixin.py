"""Loading, saving, exporting and publishing, as methods of `EncNet`."""

import os
import pathlib
from collections.abc import Sequence

from keras_encnet.convert.pytorch import encnet_from_checkpoint
from keras_encnet.convert.reading import read_checkpoint
from keras_encnet.export.export import export_model
from keras_encnet.presets.directory import save_preset
from keras_encnet.presets.hub import push_to_hub
from keras_encnet.presets.load import load_preset
from keras_encnet.zoo.table import find_release, release_settings


class HubMixin:
    """Mixed into `EncNet`: from files to a model, and from a model to files."""

    @classmethod
    def from_preset(
        cls,
        name: str | os.PathLike,
        *,
        num_classes: int | None = None,
        labels: Sequence[str] | None = None,
        load_weights: bool = True,
        revision: str | None = None,
        dtype=None,
    ):
        """Loads a model by name, from a directory or from the Hugging Face Hub.

        A published model is downloaded the first time and converted into the cache
        (`KERAS_ENCNET_CACHE`, by default `~/.cache/keras-encnet`).

        Args:
            name: a name of `keras_encnet.list_presets()`; a directory that `save_to_preset` or
                `model.save(..., zipped=False)` wrote; `"hf://user/repo"`; or
                `"kaggle://user/model/framework/variation"`.
            num_classes: gives the model new classifiers (pixel, SE, auxiliary) for this many classes
                and keeps everything else, codewords included.
            labels: names of the classes.
            load_weights: `False` gives the architecture with fresh weights.
            revision: branch, tag or commit of a repository on the Hub.
            dtype: dtype policy; default: that of the saved model.

        Raises:
            ValueError: if there is no such preset, or one of its files is missing or damaged.
            OSError: if it cannot be downloaded, or the cache cannot be written.
        """
        return load_preset(
            cls,
            name,
            num_classes=num_classes,
            labels=labels,
            load_weights=load_weights,
            revision=revision,
            dtype=dtype,
        )

    @classmethod
    def from_pytorch(
        cls,
        path: str | os.PathLike,
        *,
        align_corners: bool | None = None,
        labels: Sequence[str] | None = None,
        palette=None,
        evaluation: dict | None = None,
    ):
        """Converts a checkpoint of an mmsegmentation or PyTorch-Encoding EncNet, without PyTorch.

        Backbone, classes, codes, laterals and heads follow from the names and shapes of the weights,
        each of which is used exactly once. Class names, colours, the corner rule, normalization and
        the evaluation protocol come from the file's metadata if it has them, otherwise from the table
        of releases if the file has a release's name; the arguments override both. A model with one
        output for two classes becomes one with two outputs and the same label maps.

        Args:
            path: `.pth` in either of PyTorch's formats, a `.zip` around one, or `.safetensors`.
            align_corners: whether resizing aligns corners.
            labels: names of the classes.
            palette: their colours.
            evaluation: how `segment` looks at an image.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged or not an EncNet, or if weights are missing or unexpected.
        """
        release = find_release(pathlib.Path(path).stem)
        return encnet_from_checkpoint(
            cls,
            read_checkpoint(path),
            release=release and release_settings(release),
            align_corners=align_corners,
            labels=labels,
            palette=palette,
            evaluation=evaluation,
        )

    def save_to_preset(self, directory: str | os.PathLike, dtype: str | None = None) -> None:
        """Writes the model, without its optimizer, to a directory that `from_preset` reads.

        Args:
            directory: where to write; a preset that is there is replaced.
            dtype: `"float16"` stores rounded kernels in half the space.
        """
        save_preset(self, directory, dtype)

    def export(
        self, path: str | os.PathLike, format: str = "tf_saved_model", **options
    ) -> pathlib.Path:
        """Writes a file for servers and phones; see `keras_encnet.export.export_model`.

        Args:
            path: path of the file, or of the SavedModel's directory.
            format: `"tf_saved_model"`, `"onnx"`, `"litert"` or `"openvino"`.
            **options: `outputs`, `image_size`, `batch_size`, `dtype`, `quantize`, `calibration`,
                `version`.
        """
        return export_model(self, path, format, **options)

    def push_to_hub(self, repo: str, **options) -> str:
        """Publishes the model on the Hugging Face Hub; see `keras_encnet.presets.push_to_hub`."""
        return push_to_hub(self, repo, **options)
