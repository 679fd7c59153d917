"""Checkpoints of both code bases become the same network, with every tensor used once."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest

from golden.files import shapes_of, tiny, tiny_state, write_safetensors
from golden.weights import image, noise, state_dict
from keras_encnet import EncNet, cli
from keras_encnet.convert import (
    backbone_from_checkpoint,
    encnet_from_checkpoint,
    load_state,
    read_checkpoint,
)
from keras_encnet.convert.architecture import (
    backbone_arguments,
    backbone_part,
    encnet_arguments,
)
from keras_encnet.convert.reading import Checkpoint
from keras_encnet.convert.settings import model_settings

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
OUTPUTS = np.load(GOLDEN / "networks.npz")
TINY = {"width": 0.125, "num_codes": 4, "head_channels": 64}


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes a tiny EncNet, changed by `change`, and returns its path."""

    def write(change=lambda state: state, architecture="mmsegmentation-r18v1c", **metadata):
        state = change(tiny_state(architecture))
        return write_safetensors(tmp_path / "net.safetensors", state, metadata or None)

    return write


def without(state, part):
    return {key: value for key, value in state.items() if part not in key}


# === Architecture, from names and shapes ===


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("mmsegmentation-r18v1c", {"backbone": "resnet18"}),
        ("mmsegmentation-r18v1c-laterals", {"backbone": "resnet18", "laterals": True}),
        ("mmsegmentation-r18v1c-nose", {"backbone": "resnet18", "se_head": False}),
        ("mmsegmentation-r50v1c", {"backbone": "resnet50"}),
        ("mmsegmentation-r101v1c", {"backbone": "resnet101"}),
        ("pytorch-encoding-r50s", {"backbone": "resnet50s"}),
        ("pytorch-encoding-r50s-laterals", {"backbone": "resnet50s", "laterals": True}),
    ],
)
@pytest.mark.parametrize("small", [False, True])
def test_architecture_from_the_shapes_of_the_originals(architecture, expected, small):
    shapes = shapes_of(architecture, 7)
    code_base = "mmsegmentation" if architecture.startswith("mmseg") else "pytorch_encoding"
    default = {"laterals": False, "se_head": True, "aux_head": True, "num_classes": 7}
    sizes = TINY if small else {"width": 1.0, "num_codes": 32, "head_channels": 512}
    found = encnet_arguments(tiny(shapes, 7) if small else shapes, code_base)
    assert found == default | sizes | expected


def test_a_7x7_stem_is_recognized(checkpoint):
    def change(state):
        state = without(state, "backbone.stem.")
        norm = {"weight": 1.0, "bias": 0.5, "running_mean": 0.1, "running_var": 2.0}
        stem = {f"backbone.bn1.{key}": np.full(8, value, "float32") for key, value in norm.items()}
        return state | stem | {"backbone.conv1.weight": noise("stem", (8, 3, 7, 7)).astype("float32")}

    model = EncNet.from_pytorch(checkpoint(change), align_corners=False)
    assert model.backbone_name == "resnet18_v1"
    stem = model.backbone.get_layer("stem_conv1")
    expected = noise("stem", (8, 3, 7, 7)).astype("float32").transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(stem.kernel), expected)


def test_one_class_is_an_error():
    shapes = shapes_of("mmsegmentation-r18v1c", 1)
    with pytest.raises(ValueError, match="two classes or more. Received: one class.*num_classes=2"):
        encnet_arguments(shapes, "mmsegmentation")


def test_an_unknown_stem_is_an_error():
    shapes = shapes_of("mmsegmentation-r18v1c") | {"backbone.stem.3.weight": (48, 32, 3, 3)}
    with pytest.raises(ValueError, match=r"stem must be .*Received: \(32, 48, 64\)"):
        backbone_arguments(backbone_part(shapes, "mmsegmentation"), "mmsegmentation")


def test_an_unknown_backbone_is_an_error():
    shapes = without(shapes_of("mmsegmentation-r18v1c"), "layer4.1")
    with pytest.raises(ValueError, match=r"must be a ResNet.*\(2, 2, 2, 1\) basic blocks"):
        backbone_arguments(backbone_part(shapes, "mmsegmentation"), "mmsegmentation")


# === The same numbers ===


@pytest.mark.parametrize(
    "name",
    [
        "mmsegmentation-r18v1c-c19-centres-w0-64x64",
        pytest.param("pytorch-encoding-r50s-laterals-c59-corners-w0-97x131", marks=pytest.mark.slow),
    ],
)
def test_a_converted_model_gives_the_original_logits(name, tmp_path):
    case = CASES[name]
    shapes = shapes_of(case["architecture"], case["num_classes"])
    path = write_safetensors(tmp_path / "m.safetensors", state_dict(shapes, case["weights_seed"]))
    model = EncNet.from_pytorch(path, align_corners=case["align_corners"])
    pixels = image(case["image_seed"], case["height"], case["width"])
    outputs = model.heads_network().predict_on_batch(pixels[None].astype("float32"))
    rows, columns = OUTPUTS[f"{name}/positions"].T
    for head, largest in case["largest"].items():
        y = outputs[head][0] if head == "se" else outputs[head][0][rows, columns]
        assert np.abs(y - OUTPUTS[f"{name}/{head}"]).max() < 1e-5 * largest


def test_a_model_with_one_sigmoid_output_gives_the_same_label_map(tmp_path):
    golden = np.load(pathlib.Path(__file__).parent / "saved" / "sigmoid.npz")
    state = state_dict(json.loads(str(golden["shapes"])))
    for seed in (0, 1):
        threshold = float(golden[f"{seed}/threshold"])
        config = f"model = dict(decode_head=dict(align_corners=False, threshold={threshold!r}))"
        path = write_safetensors(tmp_path / "two.safetensors", state, {"cfg": config})
        model = EncNet.from_pytorch(path)
        expected = golden[f"{seed}/label_map"]
        result = model.segment(image(seed, *expected.shape))
        assert model.num_classes == 2 and 0.3 < expected.mean() < 0.7
        np.testing.assert_array_equal(result.label_map, expected)
        np.testing.assert_allclose(result.presence, golden[f"{seed}/presence"], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_weights_of_other_dtypes_keep_their_values(dtype, tmp_path):
    state = tiny_state("mmsegmentation-r18v1c")
    state = {key: value.astype(dtype) for key, value in state.items()}
    path = write_safetensors(tmp_path / "m.safetensors", state)
    model = EncNet.from_pytorch(path, align_corners=False)
    kernel = keras.ops.convert_to_numpy(model.get_layer("pixel_logits").kernel)
    expected = state["decode_head.conv_seg.weight"].astype("float32").transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


# === Weights that do not fit ===


def test_errors_name_every_tensor_that_does_not_fit(checkpoint):
    def change(state):
        del state["decode_head.bottleneck.bn.bias"]
        state["decode_head.extra"] = np.zeros((3, 2), "float32")
        state["decode_head.enc_module.fc.0.bias"] = np.zeros(5, "float32")
        return state

    path = checkpoint(change)
    with pytest.raises(ValueError) as error:
        EncNet.from_pytorch(path, align_corners=False)
    message = str(error.value)
    assert str(path) in message
    assert "Missing: decode_head.bottleneck.bn.bias (64,)" in message
    assert "Unexpected: decode_head.extra (3, 2)" in message
    assert "Wrong shape: decode_head.enc_module.fc.0.bias (5,) where the model has (64,)" in message


def test_entries_that_inference_does_not_need_are_ignored(checkpoint):
    def change(state):
        state["fc.weight"] = np.zeros((10, 8), "float32")
        state["ema_decode_head_conv_seg_bias"] = np.zeros(3, "float32")
        state["backbone.stem.1.num_batches_tracked"] = np.zeros((), "int64")
        return state

    assert EncNet.from_pytorch(checkpoint(change), align_corners=False).num_classes == 3


def test_a_file_without_an_encnet_is_an_error(checkpoint):
    def change(state):
        return {"decoder.weight": np.zeros(3, "float32")}

    with pytest.raises(ValueError, match="must hold an EncNet.*decoder.weight"):
        EncNet.from_pytorch(checkpoint(change))


def huge(*shape):
    """An array that takes four bytes of memory."""
    return np.broadcast_to(np.float32(0), shape)


STEM = {"backbone.stem.0.weight": 1, "backbone.stem.3.weight": 1, "backbone.stem.6.weight": 2}
CONTRADICTIONS = {
    "head_channels": {"decode_head.bottleneck.conv.weight": huge(10**6, 1, 1, 1)},
    "num_classes": {"decode_head.conv_seg.weight": huge(10**8, 1, 1, 1)},
    "num_codes": {"decode_head.enc_module.encoding.0.codewords": huge(10**8, 1)},
    "width": {
        "backbone.layer1.0.conv1.weight": huge(2 * 10**5, 1, 1, 1),
        **{key: huge(10**5 * size, 1, 1, 1) for key, size in STEM.items()},
    },
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_shapes_are_compared_before_the_model_takes_memory(checkpoint, what):
    # Either of these models has more than a terabyte of weights.
    read = read_checkpoint(checkpoint())
    damaged = dataclasses.replace(read, state=read.state | CONTRADICTIONS[what])
    message = "at most 65535 classes" if what == "num_classes" else "Wrong shape: "
    with pytest.raises(ValueError, match=rf"{read.path} cannot be converted.*{message}"):
        encnet_from_checkpoint(EncNet, damaged, align_corners=False)
    if what == "width":
        state = {key.removeprefix("backbone."): value for key, value in damaged.state.items()}
        state = {key: value for key, value in state.items() if key.startswith(("stem.", "layer"))}
        with pytest.raises(ValueError, match=rf"{read.path} cannot be converted.*Wrong shape: "):
            backbone_from_checkpoint(dataclasses.replace(damaged, state=state))


@pytest.mark.parametrize("shape", [(), (0,), (0, 64, 1, 1)])
@pytest.mark.parametrize(
    "key",
    [
        "decode_head.conv_seg.weight",
        "decode_head.se_layer.weight",
        "decode_head.bottleneck.conv.weight",
        "decode_head.enc_module.encoding.0.codewords",
        "backbone.stem.0.weight",
        "backbone.layer1.0.conv1.weight",
    ],
)
def test_shapes_without_sizes_are_errors(tmp_path, key, shape):
    shapes = tiny(shapes_of("mmsegmentation-r18v1c"), 3) | {key: shape}
    if key.endswith("se_layer.weight"):
        shapes["decode_head.conv_seg.weight"] = (1, 64, 1, 1)
    state = {name: huge(*size) for name, size in shapes.items()}
    damaged = Checkpoint(state, {}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth cannot be converted\. .*Received: "):
        encnet_from_checkpoint(EncNet, damaged, align_corners=False)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1j])
def test_weights_that_are_no_finite_numbers_are_errors(checkpoint, value):
    read, key = read_checkpoint(checkpoint()), "decode_head.enc_module.fc.0.bias"
    damaged = dataclasses.replace(read, state=read.state | {key: np.full(64, value)})
    with pytest.raises(ValueError, match=rf"{read.path} cannot be converted\. {key} must hold "):
        encnet_from_checkpoint(EncNet, damaged, align_corners=False)


def test_a_model_keeps_its_weights_if_a_state_dict_is_invalid():
    model = EncNet("resnet18", 3, **TINY)
    before = model.get_weights()
    state = tiny_state("mmsegmentation-r18v1c")
    state["auxiliary_head.conv_seg.bias"][-1] = np.nan
    with pytest.raises(ValueError, match=r"auxiliary_head\.conv_seg\.bias must hold finite numbers"):
        load_state(model, state, "mmsegmentation")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match="`code_base` must be one of mmsegmentation, pytorch_encoding"):
        load_state(model, state, "mmseg")


def test_an_error_lists_a_limited_number_of_tensors(checkpoint):
    def change(state):
        return state | {f"{i}": np.zeros(1, "float32") for i in range(500)}

    with pytest.raises(ValueError, match="and 400 more"):
        EncNet.from_pytorch(checkpoint(change), align_corners=False)


# === Arguments ===


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("labels", ["sky", "road"]),
        ("labels", "sky"),
        ("labels", [1, 2, 3]),
        ("palette", [[0.0, 0.5, 1.0]] * 3),
        ("palette", [[0, 0, 256]] * 3),
        ("palette", [[0, 0, 1]] * 2),
        ("evaluation", {"windows": 64}),
        ("evaluation", {"window": 64, "stride": 65}),
        ("align_corners", "yes"),
    ],
)
def test_invalid_arguments_are_errors(checkpoint, argument, value):
    arguments = {"align_corners": False} | {argument: value}
    with pytest.raises(ValueError, match=rf"`{argument.removesuffix('s')}.*Received: |`stride`"):
        EncNet.from_pytorch(checkpoint(), **arguments)


# === Settings, from the metadata ===

CONFIG = """
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(mean=[1.5, 2, 3], std=[4, 5, 6], bgr_to_rgb=True),
    backbone=dict(depth=50, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), contract_dilation=True),
    decode_head=dict(type='EncHead', align_corners=True, dropout_ratio=0.2, ignore_index=254),
    test_cfg=dict(mode='slide', crop_size=(769, 700), stride=(513, 500)))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2049, 1025), keep_ratio=True)]
"""


def test_settings_of_mmsegmentation_1x():
    meta = {"cfg": CONFIG, "dataset_meta": {"classes": ("sky", "road"), "palette": [[1, 2, 3]] * 2}}
    assert model_settings(meta) == {
        "labels": ["sky", "road"],
        "palette": [[1, 2, 3]] * 2,
        "align_corners": True,
        "output_stride": 16,
        "ignore_index": 254,
        "dropout": 0.2,
        "mean": [1.5, 2, 3],
        "std": [4, 5, 6],
        "evaluation": {"resize": [2049, 1025], "window": [769, 700], "stride": [513, 500]},
    }


def test_settings_of_mmsegmentation_0x():
    text = """
img_norm_cfg = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=False)
model = dict(decode_head=dict(align_corners=False, threshold=0.4))
test_cfg = dict(mode='whole')
test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(2048, 512), flip=False, transforms=[])]
"""
    assert model_settings({"config": text, "CLASSES": ["a"], "PALETTE": [[0, 0, 255]]}) == {
        "labels": ["a"],
        "palette": [[0, 0, 255]],
        "align_corners": False,
        "threshold": 0.4,
        "mean": [1, 2, 3],
        "std": [4, 5, 6],
        "bgr": True,
        "evaluation": {"resize": [2048, 512]},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model = dict(data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6]))", ([1, 2, 3], True)),
        ("model = dict(data_preprocessor=dict(rgb_to_bgr=True))", ([0, 0, 0], None)),
        (
            "data_preprocessor = dict(mean=[1, 2, 3], bgr_to_rgb=True)\nmodel = dict()",
            ([1, 2, 3], None),
        ),
        (
            "test_pipeline = [dict(transforms=[dict(type='Normalize', mean=[7, 8, 9], std=[1] * 3)])]",
            ([7, 8, 9], None),
        ),
    ],
)
def test_default_normalization_of_both_versions(text, expected):
    found = model_settings({"cfg": text})
    assert (found["mean"], found.get("bgr")) == expected


@pytest.mark.parametrize(
    ("options", "stride"),
    [
        ("", 32),
        ("strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True, style='pytorch'", 8),
        ("strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)", "contract_dilation=False"),
        ("strides=(1, 1, 2, 2), contract_dilation=True", r"strides=\(1, 1, 2, 2\)"),
        ("style='caffe'", "style='caffe'"),
    ],
)
def test_output_stride_and_unsupported_backbone_options(options, stride):
    meta = {"cfg": f"model = dict(backbone=dict(depth=50, {options}))"}
    if isinstance(stride, int):
        assert model_settings(meta) == {"output_stride": stride}
    else:
        with pytest.raises(ValueError, match=stride):
            model_settings(meta)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("decode_head=dict(align_corners='yes')", "`align_corners` .* True or False. Received: 'yes'"),
        ("decode_head=dict(ignore_index='x')", "`ignore_index` .* an integer"),
        ("decode_head=dict(dropout_ratio=1.0)", "`dropout_ratio` .* less than 1. Received: 1.0"),
        ("decode_head=dict(threshold=1)", "`threshold` .* between 0 and 1"),
        ("backbone=dict(strides=2)", "`strides` .* four positive integers. Received: 2"),
        ("backbone=dict(dilations=(1, 1, None, 4))", "`dilations` .* four positive integers"),
        ("data_preprocessor=dict(mean=1, std=[1, 1, 1])", "`mean` .* three numbers"),
        ("data_preprocessor=dict(mean=[1, 2, 3], std=[1, 0, 1])", "`std` .* three positive numbers"),
        ("data_preprocessor=dict(mean=[1, 2, 1e999])", "`mean` .* three numbers"),
        ("test_cfg=dict(mode='slide', crop_size=512)", "`crop_size` .* a pair of integers"),
        ("test_cfg=dict(mode='slide', crop_size=(10**9, 64))", "`crop_size` .* a pair of integers"),
        ("test_cfg=dict(mode='slide', crop_size=(999999999, 64))", "`crop_size` .* from 1 to 16384"),
        ("test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(65, 65))", "`stride` must not"),
        ("x={[1]: 2}", None),
    ],
)
def test_invalid_values_in_a_config(options, message):
    meta = {"cfg": f"model = dict({options})"}
    if message is None:
        assert model_settings(meta) == {}
    else:
        with pytest.raises(ValueError, match=message):
            model_settings(meta)


def test_the_length_of_a_config_is_limited():
    with pytest.raises(ValueError, match="at most 262144 characters. Received: 400004 characters"):
        model_settings({"cfg": "x = " + "0," * 200_000})


def test_labels_and_colours_that_repeat_without_end_are_ignored():
    long = [0] * 10**6
    meta = {"CLASSES": ["a" * 10**6] * 3, "PALETTE": [long] * 10**6}
    assert model_settings(meta) == {}
    assert model_settings({"PALETTE": np.zeros((10**9, 0), "uint8")}) == {}
    assert model_settings({"PALETTE": [[0.0, 0.5, 1.0]]}) == {}  # colours are in [0, 255]
    assert model_settings({"cfg": np.zeros(3), "config": "a = 1"}) == {}


@pytest.mark.parametrize("text", ["model = (", "model = __import__('os').abort()", 5, "\0", "[" * 9999])
def test_a_config_is_never_run(text):
    assert model_settings({"cfg": text}) == {}


def test_arguments_override_the_metadata(checkpoint):
    path = checkpoint(cfg=CONFIG, mmseg_version="1.2.2")
    model = EncNet.from_pytorch(path)
    assert model.align_corners and model.mean == (1.5, 2, 3) and model.output_stride == 16
    assert model.evaluation == {"resize": [2049, 1025], "window": [769, 700], "stride": [513, 500]}
    model = EncNet.from_pytorch(path, align_corners=False, labels=["a", "b", "c"], evaluation={})
    assert not model.align_corners and model.labels == ("a", "b", "c") and model.evaluation == {}


def test_a_file_without_settings_gives_a_warning(checkpoint):
    with pytest.warns(UserWarning, match="align_corners=True"):
        assert not EncNet.from_pytorch(checkpoint()).align_corners


def test_metadata_that_does_not_fit_is_ignored_with_a_warning(checkpoint):
    config = "model = dict(decode_head=dict(align_corners=False, ignore_index=1))"
    path = checkpoint()
    meta = {"cfg": config, "CLASSES": ["a", "b"]}
    with pytest.warns(UserWarning) as warned:
        model = encnet_from_checkpoint(EncNet, dataclasses.replace(read_checkpoint(path), meta=meta))
    messages = [str(warning.message) for warning in warned if str(path) in str(warning.message)]
    assert len(messages) == 2
    assert "each of 3 classes. Received: 2 entries" in messages[0] and "`labels=`" in messages[0]
    assert "`label_map={1: 255}`" in messages[1]
    assert model.ignore_index == 255 and model.labels is None


def test_pytorch_encoding_always_aligns_corners(checkpoint):
    assert EncNet.from_pytorch(checkpoint(architecture="pytorch-encoding-r50s")).align_corners


def test_a_release_is_recognized_by_its_name(tmp_path):
    shapes = tiny(shapes_of("pytorch-encoding-r50s", 150), 150)
    path = write_safetensors(tmp_path / "encnet_resnet50s_ade-07ac287c.pth", state_dict(shapes))
    model = EncNet.from_pytorch(path)
    assert model.labels[:3] == ("wall", "building", "sky") and model.palette.shape == (150, 3)
    assert model.evaluation == {
        "protocol": "pytorch-encoding",
        "resize": 520,
        "window": 480,
        "stride": 320,
    }


def test_a_network_that_takes_bgr_gives_the_same_logits(checkpoint):
    config = "model = dict(data_preprocessor=dict(mean=[{}], std=[{}], bgr_to_rgb={}))"  # of 1.x
    rgb = EncNet.from_pytorch(
        checkpoint(cfg=config.format("1, 20, 30", "40, 50, 60", True)), align_corners=False
    )

    def change(state):
        key = "backbone.stem.0.weight"
        return state | {key: np.ascontiguousarray(state[key][:, ::-1])}

    bgr = EncNet.from_pytorch(
        checkpoint(change, cfg=config.format("30, 20, 1", "60, 50, 40", False)), align_corners=False
    )
    pixels = image(0, 40, 56)[None]
    np.testing.assert_allclose(
        bgr.predict(pixels, verbose=0), rgb.predict(pixels, verbose=0), rtol=1e-5, atol=1e-5
    )


# === Backbones ===


def backbone_file(path, architecture, rename=lambda key: key):
    prefix = "backbone." if architecture.startswith("mmseg") else "pretrained."
    state = tiny_state(architecture)
    own = {rename(k.removeprefix(prefix)): v for k, v in state.items() if k.startswith(prefix)}
    own["fc.weight"], own["fc.bias"] = np.zeros((10, 64), "float32"), np.zeros(10, "float32")
    return state, write_safetensors(path, own)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("mmsegmentation-r18v1c", "resnet18"), ("pytorch-encoding-r50s", "resnet50s")],
)
def test_training_starts_from_the_checkpoint_of_a_backbone(architecture, name, tmp_path):
    state, path = backbone_file(tmp_path / "imagenet.safetensors", architecture)
    complete = EncNet.from_pytorch(
        write_safetensors(tmp_path / "complete.safetensors", state), align_corners=False
    )
    model = EncNet(name, 5, backbone_weights=path, **TINY)
    for ours, theirs in zip(model.backbone.weights, complete.backbone.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )
    # The checkpoint of a complete EncNet works too.
    other = EncNet(name, 5, backbone_weights=tmp_path / "complete.safetensors", **TINY)
    for ours, theirs in zip(other.backbone.get_weights(), model.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_backbone_of_another_architecture_is_an_error(tmp_path):
    _, path = backbone_file(tmp_path / "r18.safetensors", "mmsegmentation-r18v1c")
    with pytest.raises(ValueError, match="does not fit the backbone 'resnet34'"):
        EncNet("resnet34", 5, backbone_weights=path, **TINY)
    with pytest.raises(ValueError, match="holds only a backbone.*backbone_weights="):
        EncNet.from_pytorch(path)


# === Command line ===


def test_convert_writes_presets(tmp_path, capsys):
    state, backbone = backbone_file(tmp_path / "r18.safetensors", "mmsegmentation-r18v1c")
    complete = write_safetensors(tmp_path / "complete.safetensors", state)
    labels = ["--labels", "sky,road,car", "--no-align-corners"]
    assert cli.main(["convert", str(complete), str(tmp_path / "model"), *labels]) == 0
    model = EncNet.from_preset(tmp_path / "model")
    assert model.labels == ("sky", "road", "car")

    assert cli.main(["convert", str(backbone), str(tmp_path / "backbone")]) == 0
    assert "backbone_weights=" in capsys.readouterr().out
    other = EncNet("resnet18", 5, backbone_weights=tmp_path / "backbone", **TINY)
    for ours, theirs in zip(other.backbone.get_weights(), model.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    (tmp_path / "damaged.pth").write_bytes(complete.read_bytes()[:1000])
    assert cli.main(["convert", str(tmp_path / "damaged.pth"), str(tmp_path / "none")]) == 1
    assert "damaged" in capsys.readouterr().err and not (tmp_path / "none").exists()
