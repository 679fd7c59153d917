"""EncNet: Context Encoding for Semantic Segmentation (Zhang et al., CVPR 2018).

images ─ normalize ─ dilated ResNet ─┬─ stage 3 ─ fcn_head ──────────────── aux
                                     └─ stage 4 ─ enc_head ─┬─ upsample ─── logits
                                                            └─ which classes ─ se
"""

import contextlib

import keras
import numpy as np
from keras import layers, ops

from keras_encnet.layers import BilinearResize
from keras_encnet.models.heads import enc_head, fcn_head
from keras_encnet.models.resnet import backbone_by_name
from keras_encnet.training.trainer import SegmentationTrainer

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
MIN_SIZE = 32


@keras.saving.register_keras_serializable("keras_encnet")
class EncNet(SegmentationTrainer, keras.Model):
    """Semantic segmentation with EncNet, from RGB image to a class for each pixel.

    `model(images)` and `model.predict(images)` give logits at the images' own size,
    `model.segment(image)` a label map with names and colours, `model.fit(images, masks)` trains.

    Input: RGB, `uint8` or float in [0, 255], `(batch, height, width, 3)`, sides from 32 pixels up,
    another size in each call if need be. Normalization is part of the model.
    Output: `float32` logits `(batch, height, width, num_classes)` under every dtype policy; with
    `training=True`, as from `heads`, a dict of `"logits"`, `"aux"` (the same shape) and `"se"`
    (`(batch, num_classes)`), without those heads that the model lacks.

    Args:
        backbone: a name: `"resnet18"` … `"resnet152"` (mmsegmentation's `v1c` stem),
            `"resnet50_v1"` (7×7 stem), `"resnet50s"` (PyTorch-Encoding's); or a `keras.Model` of
            normalized RGB that returns a list, or an ordered dict, of feature maps from shallow to
            deep. The last one feeds the head, the one before it the auxiliary head.
        num_classes: number of classes.
        labels: their names. Default: `"class 0"`, `"class 1"`, …
        palette: their colours, `(num_classes, 3)` in [0, 255]. Default: a generated one.
        ignore_index: the value in masks of pixels that count for nothing; at least `num_classes`.
        num_codes: codewords of the Encoding layer.
        head_channels: channels of the head.
        width: factor on the channels of a backbone that is given by name.
        output_stride: 8, 16 or 32, of a backbone that is given by name.
        laterals: whether the head fuses in the two feature maps before the last one.
        se_head: whether there is a head that predicts which classes are in the scene.
        aux_head: whether there is an auxiliary head, which helps training alone.
        align_corners: corner rule of every resizing: `True` in PyTorch-Encoding and in
            mmsegmentation's 769×769 models.
        dropout: rate at which whole channels are dropped before the classifiers.
        mean: what is subtracted from the red, green and blue value of each pixel.
        std: what the difference is divided by.
        evaluation: how `segment` goes about it, see `keras_encnet.inference`.
        backbone_weights: where the backbone's first weights come from: `None`; `"imagenet"`; or a
            file, a checkpoint of PyTorch's or `.weights.h5`.
        dtype: dtype policy, e.g. `"mixed_bfloat16"`.
        name: the model's name.

    Raises:
        ValueError: if the arguments do not fit together.

    >>> model = keras_encnet.EncNet("resnet18", num_classes=3, width=0.125, head_channels=16)
    >>> model.predict(np.zeros((1, 40, 64, 3), "uint8"), verbose=0).shape
    (1, 40, 64, 3)
    >>> sorted(model.heads(np.zeros((1, 40, 64, 3), "uint8")))
    ['aux', 'logits', 'se']
    """

    def __init__(
        self,
        backbone,
        num_classes,
        *,
        labels=None,
        palette=None,
        ignore_index=255,
        num_codes=32,
        head_channels=512,
        width=1.0,
        output_stride=8,
        laterals=False,
        se_head=True,
        aux_head=True,
        align_corners=False,
        dropout=0.1,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        evaluation=None,
        backbone_weights=None,
        dtype=None,
        name=None,
    ):
        _check_classes(num_classes, labels, palette, ignore_index)
        # === Layers and functional graphs ===
        with default_policy(dtype):
            if isinstance(backbone, str):
                backbone_name = backbone
                backbone = backbone_by_name(backbone, width=width, output_stride=output_stride)
            else:
                backbone_name = None
            if backbone_weights is not None:
                from keras_encnet.presets.backbones import load_backbone_weights

                load_backbone_weights(backbone, backbone_name, backbone_weights)

            images = keras.Input((None, None, 3), name="images", dtype="float32")
            x = layers.Rescaling(
                [1 / s for s in std],
                [-m / s for m, s in zip(mean, std, strict=True)],
                name="normalize",
                dtype="float32",
            )(images)
            features = _feature_list(backbone(x), laterals, aux_head)

            pixel, se = enc_head(
                features,
                num_classes,
                channels=head_channels,
                num_codes=num_codes,
                laterals=laterals,
                se_head=se_head,
                align_corners=align_corners,
                dropout=dropout,
            )
            upsample = BilinearResize(align_corners, name="upsample", dtype="float32")
            logits = upsample(pixel, images)
            heads = {"logits": logits}
            if aux_head:
                heads["aux"] = upsample(fcn_head(features[-2], num_classes, dropout=dropout), images)
            if se_head:
                heads["se"] = se

            super().__init__(images, logits, name=name or "encnet")
            # What inference does not need lives in graphs of its own, over the same layers.
            self._heads = keras.Model(images, heads, name="heads")
        # Not tracked: it is a view of the layers above, and made for `stride_logits` alone.
        coarse = {"pixel": pixel, "se": se} if se_head else {"pixel": pixel}
        object.__setattr__(self, "_coarse", keras.Model(images, coarse, name="coarse"))

        # === Config ===
        self.backbone = backbone
        self.backbone_name = backbone_name
        self.num_classes = num_classes
        self.labels = None if labels is None else tuple(labels)
        self._palette = None if palette is None else np.asarray(palette).tolist()
        self.ignore_index = ignore_index
        self.num_codes = num_codes
        self.head_channels = head_channels
        self.width = width
        self.output_stride = output_stride
        self.laterals = laterals
        self.se_head = se_head
        self.aux_head = aux_head
        self.align_corners = align_corners
        self.dropout = dropout
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.evaluation = evaluation
        self.backbone_weights = backbone_weights
        self._add_loss_trackers()

    @property
    def palette(self):
        """Colours of the classes, `uint8` `(num_classes, 3)`, or `None`."""
        return None if self._palette is None else np.array(self._palette, "uint8")

    def call(self, inputs, training=None, mask=None):
        _check_shape(inputs.shape)
        if training:
            return self._heads(inputs, training=True)
        return super().call(inputs, training=training, mask=mask)

    def heads(self, images):
        """The outputs of all heads, in inference: a dict of `"logits"`, `"aux"` and `"se"`."""
        images = ops.convert_to_tensor(images, "float32")
        _check_shape(images.shape)
        return self._heads(images, training=False)

    def stride_logits(self, images):
        """The head's own, coarse logits and the classes' presence, as NumPy arrays.

        Args:
            images: RGB, `uint8` or float in [0, 255], `(batch, height, width, 3)`.

        Returns:
            `(logits, presence)`: `float32` `(batch, ⌈height / stride⌉, ⌈width / stride⌉,
            num_classes)`, and `(batch, num_classes)` probabilities, or `None` without SE head.
        """
        outputs = self._coarse.predict_on_batch(np.asarray(images, "float32"))
        presence = None
        if self.se_head:
            presence = 1 / (1 + np.exp(-outputs["se"].astype("float64")))
        return outputs["pixel"], None if presence is None else presence.astype("float32")

    def segment(self, image, **options):
        """Finds the class of every pixel of an image of any size; see `inference.segment`."""
        from keras_encnet.inference import segment

        return segment(self, image, **options)

    def get_config(self):
        return {
            "backbone": self.backbone_name or keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
            "labels": self.labels and list(self.labels),
            "palette": self._palette and [list(colour) for colour in self._palette],
            "ignore_index": self.ignore_index,
            "num_codes": self.num_codes,
            "head_channels": self.head_channels,
            "width": self.width,
            "output_stride": self.output_stride,
            "laterals": self.laterals,
            "se_head": self.se_head,
            "aux_head": self.aux_head,
            "align_corners": self.align_corners,
            "dropout": self.dropout,
            "mean": list(self.mean),
            "std": list(self.std),
            "evaluation": self.evaluation and dict(self.evaluation),
            # What the file held is in the weights by now.
            "backbone_weights": None,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("backbone", "dtype"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        return cls(**config)

    def save_to_preset(self, directory, dtype=None):
        """Writes the model, without optimizer, to a directory that `from_preset` reads.

        Args:
            directory: where to; a preset that is there is replaced.
            dtype: `"float16"` stores kernels in half the space, rounded.
        """
        from keras_encnet.presets import save_preset

        save_preset(self, directory, dtype)

    def export(self, path, format="tf_saved_model", **options):
        """Writes a file for servers and phones; see `keras_encnet.export.export_model`.

        Args:
            path: of the file, or of the SavedModel's directory.
            format: `"tf_saved_model"`, `"onnx"`, `"litert"` or `"openvino"`.
            options: `outputs`, `image_size`, `batch_size`, `dtype`, `quantize`, `calibration`,
                `version`.
        """
        from keras_encnet.export import export_model

        return export_model(self, path, format, **options)

    def push_to_hub(self, repo, **options):
        """Publishes the model on the Hugging Face Hub; see `keras_encnet.presets.push_to_hub`."""
        from keras_encnet.presets import push_to_hub

        return push_to_hub(self, repo, **options)

    @classmethod
    def from_preset(
        cls,
        name,
        *,
        num_classes=None,
        labels=None,
        load_weights=True,
        revision=None,
        dtype=None,
        verbose=False,
    ):
        """Loads a model by name, from a directory or from the Hugging Face Hub.

        A published model is downloaded the first time, and converted into the cache
        (`KERAS_ENCNET_CACHE`, by default `~/.cache/keras-encnet`).

        Args:
            name: a name of `keras_encnet.list_presets()`; a directory that `save_to_preset` or
                `model.save(..., zipped=False)` wrote; `"hf://user/repo"`; or
                `"kaggle://user/model/framework/variation"`.
            num_classes: if given, the classifiers (pixel, SE, auxiliary) are new ones for as many
                classes, and everything else is kept, codewords included.
            labels: names of the classes.
            load_weights: `False` gives the architecture with fresh weights.
            revision: branch, tag or commit of a repository on the Hub.
            dtype: dtype policy; default: that of the saved model.
            verbose: whether to say what takes how long.

        Raises:
            ValueError: if there is no such preset, or a file of it is missing or damaged.
            OSError: if it cannot be downloaded, or the cache cannot be written.
        """
        from keras_encnet.presets import load_preset

        return load_preset(
            cls,
            name,
            num_classes=num_classes,
            labels=labels,
            load_weights=load_weights,
            revision=revision,
            dtype=dtype,
            verbose=verbose,
        )

    @classmethod
    def from_pytorch(cls, path, *, align_corners=None, labels=None, palette=None, evaluation=None):
        """Brings over an EncNet of mmsegmentation or PyTorch-Encoding; PyTorch is not needed.

        Backbone, classes, codes, laterals and heads are read off the names and shapes of the weights,
        each of which is used exactly once. Class names, colours, the corner rule, normalization and
        the way of evaluation come from the file's metadata where it has them, else from the table of
        releases if the file is called as one; the arguments override. A model with one output for
        two classes becomes one with two outputs and the same label maps.

        Args:
            path: `.pth` in either of PyTorch's formats, `.zip` around one, or `.safetensors`.
            align_corners: corner rule of resizing.
            labels: names of the classes.
            palette: their colours.
            evaluation: how `segment` goes about it.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, holds no EncNet, or weights are missing or left over.
        """
        from keras_encnet.convert import encnet_from_checkpoint, read_checkpoint

        return encnet_from_checkpoint(
            cls,
            read_checkpoint(path),
            align_corners=align_corners,
            labels=labels,
            palette=palette,
            evaluation=evaluation,
        )


@contextlib.contextmanager
def default_policy(dtype):
    """Layers made inside have the dtype policy `dtype`; `None` leaves the default as it is."""
    before = keras.config.dtype_policy()
    if dtype is not None:
        keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _check_classes(num_classes, labels, palette, ignore_index):
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"`num_classes` must be a positive integer. Received: {num_classes!r}")
    if labels is not None and (isinstance(labels, str) or len(labels) != num_classes):
        raise ValueError(
            f"`labels` must be {num_classes} names, one for each class. Received: {labels!r}"
        )
    if palette is not None and np.shape(palette) != (num_classes, 3):
        raise ValueError(
            f"`palette` must have shape ({num_classes}, 3), a colour for each class. "
            f"Received shape: {np.shape(palette)}"
        )
    if ignore_index < num_classes:
        raise ValueError(
            f"`ignore_index` is {ignore_index}, which is one of the {num_classes} classes "
            f"(0 to {num_classes - 1}) or negative. Choose a value from {num_classes} up that no "
            f"class has, for instance {255 if num_classes <= 255 else 65535}."
        )


def _check_shape(shape):
    """The checks that tensors allow: rank, channels, and the size where it is known."""
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(
            "EncNet takes RGB images of shape (batch, height, width, 3). "
            f"Received shape: {tuple(shape)}. For a single image add an axis: images[None]."
        )
    if any(side is not None and side < MIN_SIZE for side in shape[1:3]):
        raise ValueError(
            f"EncNet takes images from {MIN_SIZE}×{MIN_SIZE} pixels up. "
            f"Received height {shape[1]} and width {shape[2]}: enlarge the image first."
        )


def _feature_list(features, laterals, aux_head):
    features = list(features.values()) if isinstance(features, dict) else features
    features = list(features) if isinstance(features, (list, tuple)) else [features]
    needed = 3 if laterals else 2 if aux_head else 1
    if len(features) < needed or any(len(x.shape) != 4 for x in features):
        raise ValueError(
            f"A backbone must return at least {needed} feature maps (batch, h, w, channels) here, "
            "from shallow to deep: one for the head, one before it for `aux_head`, two before it "
            f"for `laterals`. Received: {[tuple(x.shape) for x in features]}"
        )
    return features
