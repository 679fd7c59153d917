"""Which EncNet a PyTorch state dict belongs to, read off its names and shapes."""

import re

from keras_encnet.convert.names import BACKBONE, CODE_BASES, state_key
from keras_encnet.models.resnet import BACKBONES, BLOCKS, STEMS


def code_base_of(keys):
    """`"mmsegmentation"`, `"pytorch_encoding"`, or `None` where it is neither's EncNet."""
    for name in CODE_BASES:
        marks = {state_key("pixel_logits", "kernel", name), state_key("encoding", "codewords", name)}
        if marks <= set(keys):
            return name
    return None


def backbone_code_base_of(keys):
    """The same for a backbone alone, `None` where it is no ResNet."""
    if "layer1.0.conv1.weight" not in keys:
        return None
    # timm names its layers as PyTorch-Encoding does; the 7×7 stem has one name everywhere.
    return "mmsegmentation" if "stem.0.weight" in keys else "pytorch_encoding"


def backbone_part(state, code_base):
    """The backbone's entries of an EncNet's state dict, without what precedes their names."""
    prefix = BACKBONE[code_base]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def encnet_arguments(shapes, code_base):
    """The arguments of `EncNet` that names and shapes tell.

    Args:
        shapes: maps the names of a state dict to PyTorch shapes.
        code_base: whose names they are.

    Raises:
        ValueError: if the backbone is no ResNet that this package has, or there is one class.
        KeyError: if an entry is missing.
    """

    def key(layer, variable="kernel"):
        return state_key(layer, variable, code_base)

    backbone, width = backbone_arguments(backbone_part(shapes, code_base), code_base)
    num_classes = shapes[key("pixel_logits")][0]
    if num_classes == 1 and shapes.get(key("se_logits"), (2,))[0] == 1:
        raise ValueError(
            "It has one class, and so nothing to tell apart. Train it with two, the other one being "
            "what is left (num_classes=2)."
        )
    return {
        "backbone": backbone,
        "width": width,
        # One output, with a sigmoid and a threshold, tells two classes apart.
        "num_classes": max(2, num_classes),
        "num_codes": shapes[key("encoding", "codewords")][0],
        "head_channels": shapes[key("bottleneck")][0],
        "laterals": key("lateral1") in shapes,
        "se_head": key("se_logits") in shapes,
        "aux_head": key("aux_logits") in shapes,
    }


def backbone_arguments(shapes, code_base):
    """The name and the width of a backbone, by its own names and shapes."""

    def key(layer, plain_stem=False):
        return state_key(layer, "kernel", code_base, plain_stem).removeprefix(BACKBONE[code_base])

    blocks = tuple(_count_blocks(shapes, stage) for stage in (1, 2, 3, 4))
    first = key("stage1_block1_conv1")
    bottlenecks = key("stage1_block1_conv3") in shapes
    depths = [d for d, counts in BLOCKS.items() if counts == blocks and (d >= 50) == bottlenecks]
    if not depths or first not in shapes:
        raise ValueError(
            f"The backbone is no ResNet of {', '.join(map(str, BLOCKS))} layers: its four stages have "
            f"{blocks} blocks{', bottlenecks' if bottlenecks else ''}."
        )
    width = shapes[first][0] / 64
    deep = tuple(shapes.get(key(f"stem_conv{i}"), (0,))[0] for i in (1, 2, 3))
    stems = [s for s, c in STEMS.items() if c and deep == tuple(round(n * width) for n in c)]
    if key("stem_conv1", plain_stem=True) in shapes:
        stems = ["v1"]
    if not stems:
        raise ValueError(
            f"The backbone's stem has convolutions of {deep} channels; known are 32-32-64 and "
            f"64-64-128 (times {width:g}, by its first stage), and one of 7×7."
        )
    wanted = {"depth": depths[0], "stem": stems[0]}
    return next(name for name, backbone in BACKBONES.items() if backbone == wanted), width


def _count_blocks(shapes, stage):
    pattern = re.compile(rf"layer{stage}\.(\d+)\.")
    return 1 + max((int(m[1]) for key in shapes if (m := pattern.match(key))), default=-1)
