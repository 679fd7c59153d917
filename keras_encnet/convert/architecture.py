"""The code base and the architecture of a PyTorch state dict, from its names and shapes."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from keras_encnet.convert.names import BACKBONE_PREFIX, CODE_BASES, state_key
from keras_encnet.models.resnet import BACKBONES, BLOCKS, STEMS

# Label maps are `uint16`, and one value is left for ignored pixels.
MAX_CLASSES = 2**16 - 1


def code_base_of(keys: Collection[str]) -> str | None:
    """`"mmsegmentation"`, `"pytorch_encoding"`, or `None` if the keys are not those of an EncNet."""
    for name in CODE_BASES:
        marks = {state_key("pixel_logits", "kernel", name), state_key("encoding", "codewords", name)}
        if marks <= set(keys):
            return name
    return None


def backbone_code_base_of(keys: Collection[str]) -> str | None:
    """Like `code_base_of`, for the keys of a backbone alone; `None` if they are not a ResNet's."""
    if "layer1.0.conv1.weight" not in keys:
        return None
    # timm names its layers as PyTorch-Encoding does; the 7×7 stem has one name everywhere.
    return "mmsegmentation" if "stem.0.weight" in keys else "pytorch_encoding"


def backbone_part(state: Mapping[str, Any], code_base: str) -> dict[str, Any]:
    """The backbone's entries of an EncNet's state dict, under their names without the prefix."""
    prefix = BACKBONE_PREFIX[code_base]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def encnet_arguments(shapes: Mapping[str, tuple[int, ...]], code_base: str) -> dict[str, Any]:
    """The arguments of `EncNet` that follow from names and shapes.

    Args:
        shapes: maps the names of a state dict to PyTorch shapes.
        code_base: `"mmsegmentation"` or `"pytorch_encoding"`.

    Raises:
        ValueError: if the backbone is not a ResNet that this package has, there is one class, or an
            entry has no or an empty shape.
        KeyError: if an entry is missing.
    """

    def key(layer, variable="kernel"):
        return state_key(layer, variable, code_base)

    def size(name):
        """The first size of an entry: its output channels, or the number of codewords."""
        if not shapes[name] or shapes[name][0] < 1:
            raise ValueError(f"{name} must have a size of 1 or more. Received: shape {shapes[name]}")
        return shapes[name][0]

    backbone, width = backbone_arguments(backbone_part(shapes, code_base), code_base)
    num_classes = size(key("pixel_logits"))
    if num_classes == 1 and (key("se_logits") not in shapes or size(key("se_logits")) > 1):
        num_classes = 2  # one output, with a sigmoid and a threshold, separates two classes
    if num_classes > MAX_CLASSES:
        raise ValueError(
            f"The model must have at most {MAX_CLASSES} classes, which fit into a label map. Received: "
            f"{num_classes}"
        )
    if num_classes == 1:
        raise ValueError(
            "The model must have two classes or more. Received: one class. Train it with "
            "`num_classes=2`, the second class being everything else."
        )
    return {
        "backbone": backbone,
        "width": width,
        "num_classes": num_classes,
        "num_codes": size(key("encoding", "codewords")),
        "head_channels": size(key("bottleneck")),
        "laterals": key("lateral1") in shapes,
        "se_head": key("se_logits") in shapes,
        "aux_head": key("aux_logits") in shapes,
    }


def backbone_arguments(shapes: Mapping[str, tuple[int, ...]], code_base: str) -> tuple[str, float]:
    """The name and the width of a backbone, from its names (without the prefix) and shapes.

    Raises:
        ValueError: if it is not a ResNet that this package has.
    """

    def key(layer, plain_stem=False):
        name = state_key(layer, "kernel", code_base, plain_stem)
        return name.removeprefix(BACKBONE_PREFIX[code_base])

    def channels(name):
        return shapes[name][0] if shapes.get(name) else 0

    blocks = tuple(_count_blocks(shapes, stage) for stage in (1, 2, 3, 4))
    first = key("stage1_block1_conv1")
    bottlenecks = key("stage1_block1_conv3") in shapes
    depths = [d for d, counts in BLOCKS.items() if counts == blocks and (d >= 50) == bottlenecks]
    if not depths or not channels(first):
        raise ValueError(
            f"The backbone must be a ResNet of {', '.join(map(str, BLOCKS))} layers. Received: four "
            f"stages of {blocks} {'bottleneck' if bottlenecks else 'basic'} blocks."
        )
    width = channels(first) / 64
    stem_channels = tuple(channels(key(f"stem_conv{i}")) for i in (1, 2, 3))
    stems = [
        stem
        for stem, counts in STEMS.items()
        if counts and stem_channels == tuple(round(n * width) for n in counts)
    ]
    if key("stem_conv1", plain_stem=True) in shapes:
        stems = ["v1"]
    if not stems:
        raise ValueError(
            "The backbone's stem must be one 7×7 convolution, or three of 32, 32 and 64 or of 64, 64 "
            f"and 128 channels, times {width:g} (from the first stage). Received: {stem_channels}"
        )
    wanted = {"depth": depths[0], "stem": stems[0]}
    return next(name for name, backbone in BACKBONES.items() if backbone == wanted), width


def _count_blocks(shapes, stage):
    pattern = re.compile(rf"layer{stage}\.(\d{{1,4}})\.")
    return 1 + max((int(m[1]) for key in shapes if (m := pattern.match(key))), default=-1)
