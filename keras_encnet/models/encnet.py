"""EncNet: Context Encoding for Semantic Segmentation (Zhang et al., CVPR 2018).

images ─ normalize ─ dilated ResNet ─┬─ stage 3 ─ fcn_head ─ upsample ──────────────── aux
                                     └─ stage 4 ─ enc_head ─┬─ coarse logits ─ upsample ─ logits
                                                            └─ which classes ────────── se
"""

import copy
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops

from keras_encnet.data.conventions import IGNORE_INDEX
from keras_encnet.inference.geometry import evaluation_rule
from keras_encnet.inference.segmentation import Segmentation
from keras_encnet.inference.segmenting import segment
from keras_encnet.layers import BilinearResize
from keras_encnet.layers.policies import default_policy
from keras_encnet.models.arguments import (
    check_backbone,
    check_classes,
    check_network,
    check_shape,
    plain,
    serialized,
)
from keras_encnet.models.cloning import clone_by_config
from keras_encnet.models.heads import enc_head, fcn_head
from keras_encnet.models.hub_mixin import HubMixin
from keras_encnet.models.layer_changes import apply_changes, changes, layers_by_path, settings
from keras_encnet.models.resnet import backbone_by_name
from keras_encnet.presets.backbones import load_backbone_weights
from keras_encnet.training.inputs import images_of
from keras_encnet.training.trainer import SegmentationTrainer

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def encnet(
    images,
    backbone,
    num_classes,
    *,
    num_codes=32,
    head_channels=512,
    laterals=False,
    se_head=True,
    aux_head=True,
    align_corners=False,
    dropout=0.1,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
):
    """The network of the paper's figure 2, from images to the logits of all heads.

    Args:
        images: RGB in [0, 255], `(batch, height, width, 3)`.
        backbone: a `keras.Model` of normalized RGB that returns feature maps from shallow to deep.
        num_classes: number of classes. For the other arguments see `EncNet`.

    Returns:
        `(coarse, outputs)`: the head's own, coarse logits `(batch, h, w, num_classes)`, and a dict of
        `"logits"` and `"aux"` at the images' size and `"se"` `(batch, num_classes)`, without those
        heads that are switched off; all float32.
    """
    upsample = BilinearResize(align_corners, name="upsample", dtype="float32")

    features = feature_maps(backbone, normalize(images, mean, std), laterals, aux_head)

    coarse, se = enc_head(
        features,
        num_classes,
        channels=head_channels,
        num_codes=num_codes,
        laterals=laterals,
        se_head=se_head,
        align_corners=align_corners,
        dropout=dropout,
    )
    outputs = {"logits": upsample(coarse, images)}
    if aux_head:
        aux = fcn_head(features[-2], num_classes, dropout=dropout)
        outputs["aux"] = upsample(aux, images)
    if se_head:
        outputs["se"] = se
    return coarse, outputs


def normalize(images, mean, std):
    """Subtracts the channels' means and divides by their standard deviations, in float32."""
    scale = [1 / s for s in std]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return layers.Rescaling(scale, offset, name="normalize", dtype="float32")(images)


def feature_maps(backbone, images, laterals, aux_head):
    """The backbone's output, a tensor, list or dict, as a list of at least as many maps as the heads
    need."""
    try:
        features = backbone(images)
    except ValueError as error:
        raise ValueError(
            "The backbone must map normalized RGB images (batch, height, width, 3) of any size to "
            f"feature maps. Received: {backbone.name!r}, which raised: {error}"
        ) from error
    features = list(features.values()) if isinstance(features, dict) else features
    features = list(features) if isinstance(features, (list, tuple)) else [features]
    needed = 3 if laterals else 2 if aux_head else 1
    if len(features) < needed or any(len(x.shape) != 4 for x in features):
        raise ValueError(
            f"The backbone must return at least {needed} feature maps (batch, h, w, channels), from "
            "shallow to deep: one for the head, the one before it for `aux_head`, the two before it "
            f"for `laterals`. Received: {[tuple(x.shape) for x in features]}"
        )
    return features


@clone_by_config
@keras.saving.register_keras_serializable("keras_encnet")
class EncNet(HubMixin, SegmentationTrainer, keras.Model):
    """Semantic segmentation with EncNet, from an RGB image to a class for each pixel.

    `model(images)` and `model.predict(images)` give logits at the images' own size,
    `model.segment(image)` a label map with names and colours, `model.fit(images, masks)` trains.

    Input: RGB, `uint8` or float in [0, 255], `(batch, height, width, 3)`, sides from 32 pixels up;
    the size may differ from call to call. Normalization is part of the model.
    Output: `float32` logits `(batch, height, width, num_classes)` under every dtype policy; with
    `training=True`, as from `heads`, a dict of `"logits"`, `"aux"` (the same shape) and `"se"`
    (`(batch, num_classes)`), without the heads that the model lacks.

    Args:
        backbone: a name: `"resnet18"` … `"resnet152"` (mmsegmentation's `v1c` stem),
            `"resnet50_v1"` (7×7 stem), `"resnet50s"` (PyTorch-Encoding's); or a `keras.Model` of
            normalized RGB that returns a list, or an ordered dict, of feature maps from shallow to
            deep. The last one feeds the head, the one before it the auxiliary head.
        num_classes: number of classes.
        labels: their names. Default: `"class 0"`, `"class 1"`, …
        palette: their colours, `(num_classes, 3)` in [0, 255]. Default: a generated one.
        ignore_index: the value of ignored pixels in masks; at least `num_classes`.
        num_codes: number of codewords in the Encoding layer.
        head_channels: channels of the head.
        width: factor on the channels of a backbone that is given by name.
        output_stride: 8, 16 or 32, for a backbone that is given by name.
        laterals: whether the head also takes the two feature maps before the last one.
        se_head: whether there is a head that predicts which classes are in the scene.
        aux_head: whether there is an auxiliary head, which only helps training.
        align_corners: whether resizing aligns corners: `True` in PyTorch-Encoding and in
            mmsegmentation's 769×769 models.
        dropout: rate at which whole channels are dropped before the classifiers.
        mean: what is subtracted from each pixel's red, green and blue values.
        std: what the differences are divided by.
        evaluation: how `segment` looks at an image, see `keras_encnet.inference.segmenting`.
        backbone_weights: the backbone's initial weights: `None`; `"imagenet"`; or a file, either a
            PyTorch checkpoint or `.weights.h5`.
        dtype: dtype policy, e.g. `"mixed_bfloat16"`, of the layers that are made here; a `keras.Model`
            as `backbone` keeps its own.
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
        backbone: str | keras.Model,
        num_classes: int,
        *,
        labels: Sequence[str] | None = None,
        palette: np.ndarray | Sequence | None = None,
        ignore_index: int = IGNORE_INDEX,
        num_codes: int = 32,
        head_channels: int = 512,
        width: float = 1.0,
        output_stride: int = 8,
        laterals: bool = False,
        se_head: bool = True,
        aux_head: bool = True,
        align_corners: bool = False,
        dropout: float = 0.1,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        evaluation: dict | None = None,
        backbone_weights: str | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        check_classes(num_classes, labels, palette, ignore_index)
        check_backbone(backbone, width, output_stride)
        check_network(
            num_codes,
            head_channels,
            dropout,
            mean,
            std,
            laterals=laterals,
            se_head=se_head,
            aux_head=aux_head,
            align_corners=align_corners,
        )
        evaluation_rule(evaluation)
        with default_policy(dtype):
            backbone_name = backbone if isinstance(backbone, str) else None
            if backbone_name is not None:
                backbone = backbone_by_name(backbone, width=width, output_stride=output_stride)
            if backbone_weights is not None:
                load_backbone_weights(backbone, backbone_name, backbone_weights)

            images = keras.Input((None, None, 3), name="images", dtype="float32")
            coarse, outputs = encnet(
                images,
                backbone,
                num_classes,
                num_codes=num_codes,
                head_channels=head_channels,
                laterals=laterals,
                se_head=se_head,
                aux_head=aux_head,
                align_corners=align_corners,
                dropout=dropout,
                mean=mean,
                std=std,
            )
            # The model itself is inference alone; training and `segment` run two more graphs over the
            # same layers. Keras saves layers by the names of the attributes where it finds them, so
            # these two names are part of the file format, and no property may return the graphs.
            super().__init__(images, outputs["logits"], name=name or "encnet")
            self._heads = keras.Model(images, outputs, name="heads")
            coarse_outputs = {"coarse": coarse}
            if se_head:
                coarse_outputs["se"] = outputs["se"]
            self._coarse = keras.Model(images, coarse_outputs, name="coarse")
        # Keras 3.13 does not track what a functional model is given after its construction.
        for network in (self._heads, self._coarse):
            if not any(network is layer for layer in self._layers):
                self._layers.append(network)
        # `segment` runs on one device, even of a model that was made for several replicas.
        self._coarse._distribute_strategy = None
        # What is wrong with an input's shape is said by `call`, with a remedy.
        self.input_spec = None

        self.backbone = backbone
        self.backbone_name = backbone_name
        self.num_classes = int(num_classes)
        self.labels = None if labels is None else tuple(labels)
        self._palette = None if palette is None else np.asarray(palette).astype(int).tolist()
        self.ignore_index = int(ignore_index)
        self.num_codes = int(num_codes)
        self.head_channels = int(head_channels)
        self.width = width
        self.output_stride = output_stride
        self.laterals = bool(laterals)
        self.se_head = bool(se_head)
        self.aux_head = bool(aux_head)
        self.align_corners = bool(align_corners)
        self.dropout = float(dropout)
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.evaluation = evaluation
        self.backbone_weights = backbone_weights
        self._add_loss_trackers(tuple(outputs))
        # A function, because Keras would save the layers that it finds in a dict once more.
        named = layers_by_path(self._heads)
        made = settings(named, left_out=None if backbone_name else backbone)
        self._layer_changes = lambda: changes(self, named, made)

    @property
    def palette(self) -> np.ndarray | None:
        """Colours of the classes, `uint8` `(num_classes, 3)`, or `None`."""
        return None if self._palette is None else np.array(self._palette, "uint8")

    def call(self, inputs, training=None, mask=None):
        inputs = images_of(inputs)  # by name or in a list too, as of Keras's functional models
        check_shape(inputs.shape)
        if training:
            return self._heads(inputs, training=True)
        return super().call(inputs, training=training, mask=mask)

    def heads(self, images) -> dict:
        """The outputs of all heads, in inference: a dict of `"logits"`, `"aux"` and `"se"`."""
        images = ops.convert_to_tensor(images, "float32")
        check_shape(images.shape)
        return self._heads(images, training=False)

    def coarse_logits(self, images) -> tuple[np.ndarray, np.ndarray | None]:
        """The head's own, coarse logits and the presence of the classes, as NumPy arrays.

        Args:
            images: RGB, `uint8` or float in [0, 255], `(batch, height, width, 3)`.

        Returns:
            `(logits, presence)`: `float32` `(batch, ⌈height / stride⌉, ⌈width / stride⌉,
            num_classes)`, and `(batch, num_classes)` probabilities, or `None` without an SE head.
        """
        outputs = self._coarse.predict_on_batch(np.asarray(images, "float32"))
        presence = None
        if self.se_head:
            presence = 1 / (1 + np.exp(-outputs["se"].astype("float64")))
        return outputs["coarse"], None if presence is None else presence.astype("float32")

    def heads_network(self) -> keras.Model:
        """The functional model, over this model's layers, from float32 images to a dict of all heads'
        outputs; its `predict` is compiled, unlike `heads`."""
        return self._heads

    def coarse_network(self) -> keras.Model:
        """The functional model, over this model's layers, from float32 images to a dict of
        `"coarse"`, the head's own logits, and `"se"` `(batch, num_classes)`, if there is an SE head."""
        return self._coarse

    def segment(self, image, **options) -> Segmentation | list[Segmentation]:
        """Finds the class of every pixel of an image of any size; see `inference.segment`."""
        return segment(self, image, **options)

    def get_config(self) -> dict:
        """The constructor's arguments, and what was changed in the layers since (`"layers"`,
        `"trainable"`), such as which of them are frozen."""
        config = {
            "backbone": self.backbone_name or serialized(self.backbone),
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
            "evaluation": plain(self.evaluation),
            # The weights already hold what the file held.
            "backbone_weights": None,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
        }
        changed = {"trainable": self.trainable, "layers": self._layer_changes()}
        usual = {"trainable": True, "layers": {}}
        return {**config, **{name: value for name, value in changed.items() if value != usual[name]}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        # Deserializing takes entries out of what it is given. A model as backbone is not copied.
        config = {
            name: copy.deepcopy(value) if isinstance(value, (dict, list)) else value
            for name, value in config.items()
        }
        trainable, changed = config.pop("trainable", True), config.pop("layers", {})
        if config.get("backbone_weights") is not None:
            raise ValueError(
                "`backbone_weights` must be None in a config, which must not open files. Received: "
                f"{config['backbone_weights']!r}"
            )
        if not isinstance(config.get("backbone"), str):
            # Earlier versions accepted and ignored them for a model as backbone.
            config.pop("width", None)
            config.pop("output_stride", None)
        for key in ("backbone", "dtype"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        model = cls(**config)
        if not trainable:
            model.trainable = False
        apply_changes(model.heads_network(), changed)
        return model
