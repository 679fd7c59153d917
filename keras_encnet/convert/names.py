"""How the PyTorch code bases name the layers of EncNet.

One table a code base: a pattern of our layer names, and a function of its numbers that gives the
prefixes of the layer's parts there. A `ConvNorm` has two, a convolution and a normalization; any
other layer has one. The originals count from 0, we from 1.
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

# The one convolution of stem "v1" has the first of three in no other stem's name.
PLAIN_STEM = {
    "mmsegmentation": {r"stem_conv1": lambda: ("backbone.conv1", "backbone.bn1")},
    "pytorch_encoding": {r"stem_conv1": lambda: ("pretrained.conv1", "pretrained.bn1")},
}

# What precedes the backbone's names; a file of a backbone alone lacks it.
BACKBONE = {"mmsegmentation": "backbone.", "pytorch_encoding": "pretrained."}

# In a state dict, but of no use for inference: step counters, the ImageNet classifier, and the
# averages of mmcv's EMA hook.
PASSENGERS = r".*\.num_batches_tracked|(pretrained\.)?fc\.(weight|bias)|ema_\w+"

# Our variables' names → (which part, the entry's name there).
ENTRIES = {
    "kernel": (0, "weight"),
    "bias": (0, "bias"),
    "codewords": (0, "codewords"),
    "scale": (0, "scale"),
    "gamma": (-1, "weight"),
    "beta": (-1, "bias"),
    "moving_mean": (-1, "running_mean"),
    "moving_variance": (-1, "running_var"),
}


def state_key(layer, variable, code_base, plain_stem=False):
    """The name of a layer's variable in a state dict; `plain_stem`: the stem is one 7×7 convolution.

    >>> state_key("bottleneck", "gamma", "mmsegmentation")
    'decode_head.bottleneck.bn.weight'
    """
    # The first pattern that fits counts.
    table = (PLAIN_STEM[code_base] if plain_stem else {}) | CODE_BASES[code_base]
    part, entry = ENTRIES[variable]
    for pattern, parts in table.items():
        match = re.fullmatch(pattern, layer)
        if match:
            return f"{parts(*map(int, match.groups()))[part]}.{entry}"
    raise ValueError(f"Layer {layer!r} has no counterpart in {code_base}.")
