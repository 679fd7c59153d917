"""Which EncNet a PyTorch state dict belongs to, read off its names and shapes."""

import re

from keras_encnet.models.resnet import BACKBONES, BLOCKS, STEMS

# Where either code base keeps what tells architectures apart.
LANDMARKS = {
    "mmsegmentation": {
        "backbone": "backbone.",
        "stem": "backbone.stem.{}.weight",
        "bottleneck": "decode_head.bottleneck.conv.weight",
        "codewords": "decode_head.enc_module.encoding.0.codewords",
        "lateral": "decode_head.lateral_convs.0.conv.weight",
        "classifier": "decode_head.conv_seg.weight",
        "se": "decode_head.se_layer.weight",
        "aux": "auxiliary_head.conv_seg.weight",
    },
    "pytorch_encoding": {
        "backbone": "pretrained.",
        "stem": "pretrained.conv1.{}.weight",
        "bottleneck": "head.conv5.0.weight",
        "codewords": "head.encmodule.encoding.3.codewords",
        "lateral": "head.connect.0.0.weight",
        "classifier": "head.conv6.1.weight",
        "se": "head.encmodule.selayer.weight",
        "aux": "auxlayer.conv5.4.weight",
    },
}


def code_base_of(keys):
    """`"mmsegmentation"`, `"pytorch_encoding"`, or `None` where it is neither's EncNet."""
    for name, marks in LANDMARKS.items():
        if marks["classifier"] in keys and marks["codewords"] in keys:
            return name
    return None


def backbone_code_base_of(keys):
    """The same for a backbone alone, `None` where it is no ResNet."""
    if "layer1.0.conv1.weight" not in keys:
        return None
    # timm names its layers as PyTorch-Encoding does; the 7×7 stem has one name everywhere.
    return "mmsegmentation" if "stem.0.weight" in keys else "pytorch_encoding"


def encnet_arguments(shapes, code_base):
    """The arguments of `EncNet` that names and shapes tell.

    Args:
        shapes: maps the names of a state dict to PyTorch shapes.
        code_base: whose names they are.

    Raises:
        ValueError: if the backbone is no ResNet that this package has.
    """
    marks = LANDMARKS[code_base]
    backbone, width = backbone_arguments(shapes, code_base)
    num_classes = shapes[marks["classifier"]][0]
    if num_classes == 1 and shapes.get(marks["se"], (2,))[0] == 1:
        raise ValueError(
            "It has one class, and so nothing to tell apart. Train it with two, the other one being "
            "what is left (num_classes=2)."
        )
    return {
        "backbone": backbone,
        "width": width,
        # One output, with a sigmoid and a threshold, tells two classes apart.
        "num_classes": max(2, num_classes),
        "num_codes": shapes[marks["codewords"]][0],
        "head_channels": shapes[marks["bottleneck"]][0],
        "laterals": marks["lateral"] in shapes,
        "se_head": marks["se"] in shapes,
        "aux_head": marks["aux"] in shapes,
    }


def backbone_arguments(shapes, code_base, prefix=None):
    """The backbone's name and width; `prefix` precedes its names."""
    prefix = LANDMARKS[code_base]["backbone"] if prefix is None else prefix
    stem_key = LANDMARKS[code_base]["stem"].replace(LANDMARKS[code_base]["backbone"], prefix)
    blocks = tuple(_count_blocks(shapes, f"{prefix}layer{stage}.") for stage in (1, 2, 3, 4))
    first = f"{prefix}layer1.0.conv1.weight"
    bottlenecks = f"{prefix}layer1.0.conv3.weight" in shapes
    depths = [d for d, counts in BLOCKS.items() if counts == blocks and (d >= 50) == bottlenecks]
    if not depths or first not in shapes:
        raise ValueError(
            f"The backbone is no ResNet of {', '.join(map(str, BLOCKS))} layers: its four stages have "
            f"{blocks} blocks{', bottlenecks' if bottlenecks else ''}."
        )
    width = shapes[first][0] / 64
    deep = tuple(shapes.get(stem_key.format(i), (0,))[0] for i in (0, 3, 6))
    if f"{prefix}conv1.weight" in shapes:
        stem = "v1"
    else:
        stems = [s for s, c in STEMS.items() if c and deep == tuple(round(n * width) for n in c)]
        if not stems:
            raise ValueError(
                f"The backbone's stem has convolutions of {deep} channels; known are 32-32-64 and "
                f"64-64-128 (times {width:g}, by its first stage), and one of 7×7."
            )
        stem = stems[0]
    name = next(n for n, b in BACKBONES.items() if b == {"depth": depths[0], "stem": stem})
    return name, width


def _count_blocks(shapes, prefix):
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return 1 + max((int(m[1]) for key in shapes if (m := pattern.match(key))), default=-1)
