"""How the PyTorch code bases name the layers of EncNet.

Each code base has one table. A row maps a pattern of our layer names to a function, which takes the
numbers in the name and returns the prefixes of the layer's parts in the state dict. A `ConvNorm` has
two parts, a convolution and a normalization. Any other layer has one. The originals count from 0, we
count from 1.
"""

import re

MMSEGMENTATION = {
    r"stem_conv(\d)": lambda i: (f"backbone.stem.{3 * i - 3}", f"backbone.stem.{3 * i - 2}"),
    r"stage(\d)_block(\d+)_conv(\d)": lambda stage, block, i: (
        f"backbone.layer{stage}.{block - 1}.conv{i}",
        f"backbone.layer{stage}.{block - 1}.bn{i}",
    ),
    r"stage(\d)_block(\d+)_shortcut": lambda stage, block: (
        f"backbone.layer{stage}.{block - 1}.downsample.0",
        f"backbone.layer{stage}.{block - 1}.downsample.1",
    ),
    r"bottleneck": lambda: ("decode_head.bottleneck.conv", "decode_head.bottleneck.bn"),
    r"lateral(\d)": lambda i: (
        f"decode_head.lateral_convs.{i - 1}.conv",
        f"decode_head.lateral_convs.{i - 1}.bn",
    ),
    r"fusion": lambda: ("decode_head.fusion.conv", "decode_head.fusion.bn"),
    r"encoding_project": lambda: (
        "decode_head.enc_module.encoding_project.conv",
        "decode_head.enc_module.encoding_project.bn",
    ),
    r"encoding": lambda: ("decode_head.enc_module.encoding.0",),
    r"encoding_norm": lambda: ("decode_head.enc_module.encoding.1",),
    r"gate": lambda: ("decode_head.enc_module.fc.0",),
    r"se_logits": lambda: ("decode_head.se_layer",),
    r"pixel_logits": lambda: ("decode_head.conv_seg",),
    r"aux_conv": lambda: ("auxiliary_head.convs.0.conv", "auxiliary_head.convs.0.bn"),
    r"aux_logits": lambda: ("auxiliary_head.conv_seg",),
}

PYTORCH_ENCODING = {
    r"stem_conv([12])": lambda i: (
        f"pretrained.conv1.{3 * i - 3}",
        f"pretrained.conv1.{3 * i - 2}",
    ),
    r"stem_conv3": lambda: ("pretrained.conv1.6", "pretrained.bn1"),
    r"stage(\d)_block(\d+)_conv(\d)": lambda stage, block, i: (
        f"pretrained.layer{stage}.{block - 1}.conv{i}",
        f"pretrained.layer{stage}.{block - 1}.bn{i}",
    ),
    r"stage(\d)_block(\d+)_shortcut": lambda stage, block: (
        f"pretrained.layer{stage}.{block - 1}.downsample.0",
        f"pretrained.layer{stage}.{block - 1}.downsample.1",
    ),
    r"bottleneck": lambda: ("head.conv5.0", "head.conv5.1"),
    r"lateral(\d)": lambda i: (f"head.connect.{i - 1}.0", f"head.connect.{i - 1}.1"),
    r"fusion": lambda: ("head.fusion.0", "head.fusion.1"),
    r"encoding_project": lambda: ("head.encmodule.encoding.0", "head.encmodule.encoding.1"),
    r"encoding": lambda: ("head.encmodule.encoding.3",),
    r"encoding_norm": lambda: ("head.encmodule.encoding.4",),
    r"gate": lambda: ("head.encmodule.fc.0",),
    r"se_logits": lambda: ("head.encmodule.selayer",),
    r"pixel_logits": lambda: ("head.conv6.1",),
    r"aux_conv": lambda: ("auxlayer.conv5.0", "auxlayer.conv5.1"),
    r"aux_logits": lambda: ("auxlayer.conv5.4",),
}

CODE_BASES = {"mmsegmentation": MMSEGMENTATION, "pytorch_encoding": PYTORCH_ENCODING}

# Stem "v1" has a single convolution, named differently from the first of the three in other stems.
PLAIN_STEM = {
    "mmsegmentation": {r"stem_conv1": lambda: ("backbone.conv1", "backbone.bn1")},
    "pytorch_encoding": {r"stem_conv1": lambda: ("pretrained.conv1", "pretrained.bn1")},
}

# The prefix of the backbone's names, which files of a backbone alone lack.
BACKBONE_PREFIX = {"mmsegmentation": "backbone.", "pytorch_encoding": "pretrained."}

# Entries of a state dict that are ignored: step counters, the ImageNet classifier, and the averages of
# mmcv's EMA hook.
IGNORED = r".*\.num_batches_tracked|(pretrained\.)?fc\.(weight|bias)|ema_\w+"

# The names of our variables → (index of the layer's part, name of the entry in the state dict).
VARIABLES = {
    "kernel": (0, "weight"),
    "bias": (0, "bias"),
    "codewords": (0, "codewords"),
    "scale": (0, "scale"),
    "gamma": (-1, "weight"),
    "beta": (-1, "bias"),
    "moving_mean": (-1, "running_mean"),
    "moving_variance": (-1, "running_var"),
}


def state_key(layer: str, variable: str, code_base: str, plain_stem: bool = False) -> str:
    """The name in a state dict of a layer's variable.

    Args:
        layer: our name of the layer.
        variable: our name of the variable, a key of `VARIABLES`.
        code_base: a key of `CODE_BASES`.
        plain_stem: whether the stem is a single 7×7 convolution.

    Raises:
        ValueError: if there is no such code base, or it has no such layer or variable.

    >>> state_key("bottleneck", "gamma", "mmsegmentation")
    'decode_head.bottleneck.bn.weight'
    """
    for argument, value, known in (
        ("code_base", code_base, CODE_BASES),
        ("variable", variable, VARIABLES),
    ):
        if value not in known:
            raise ValueError(f"`{argument}` must be one of {', '.join(known)}. Received: {value!r}")
    # The first matching pattern is used.
    table = (PLAIN_STEM[code_base] if plain_stem else {}) | CODE_BASES[code_base]
    part, entry = VARIABLES[variable]
    for pattern, parts in table.items():
        match = re.fullmatch(pattern, layer)
        if match:
            return f"{parts(*map(int, match.groups()))[part]}.{entry}"
    raise ValueError(f"`layer` must have a counterpart in {code_base}. Received: {layer!r}")
