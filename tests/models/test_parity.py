"""The complete network against both PyTorch originals: same weights, same image, same numbers.

The golden outputs come from `tests/golden/make.py`. Tolerances are relative to the largest value."""

import json
import pathlib

import numpy as np
import pytest

from golden.weights import image, state_dict
from keras_encnet import EncNet
from keras_encnet.convert import load_state
from keras_encnet.convert.state import variable_keys

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
SHAPES = json.loads((GOLDEN / "shapes.json").read_text())
OUTPUTS = np.load(GOLDEN / "networks.npz")

# The sizes of a model are tested together, so that it is built once.
MODELS = {}
for name in CASES:
    MODELS.setdefault(name.rsplit("-", 1)[0], []).append(name)


def model_of(case):
    """The Keras model of a case, with its weights."""
    model = EncNet(
        f"resnet{case['depth']}{'s' if case['stem'] == 's' else ''}",
        case["num_classes"],
        align_corners=case["align_corners"],
        output_stride=case["output_stride"],
        laterals=case["laterals"],
        se_head=case["se_head"],
    )
    shapes = {
        key: [case["num_classes"] if side == -1 else side for side in shape]
        for key, shape in SHAPES[case["architecture"]].items()
    }
    code_base = case["source"].replace("-", "_")
    load_state(model, state_dict(shapes, case["weights_seed"]), code_base)
    return model


def parameters():
    for name, cases in MODELS.items():
        real_size = CASES[cases[0]]["depth"] > 18
        yield pytest.param(cases, id=name, marks=[pytest.mark.slow] if real_size else [])


@pytest.mark.parametrize("names", list(parameters()))
def test_agrees_with_pytorch(names):
    model = model_of(CASES[names[0]])
    for name in names:
        case = CASES[name]
        pixels = image(case["image_seed"], case["height"], case["width"])
        assert pixels.sum() == case["image_sum"]
        # Compiled, because JAX takes minutes for `heads` operation by operation.
        outputs = model.heads_network().predict_on_batch(pixels[None].astype("float32"))
        outputs = {head: y[0] for head, y in outputs.items()}
        assert set(outputs) == set(case["largest"])
        rows, columns = OUTPUTS[f"{name}/positions"].T
        for head, largest in case["largest"].items():
            y = outputs[head] if head == "se" else outputs[head][rows, columns]
            # Promised is 1e-4; the rounding of both sides allows 1e-5.
            assert np.abs(y - OUTPUTS[f"{name}/{head}"]).max() < 1e-5 * largest, (name, head)
            if head != "se":
                means = outputs[head].mean((0, 1), dtype="float64")
                assert np.abs(means - OUTPUTS[f"{name}/{head}_mean"]).max() < 1e-5 * largest


def test_weights_that_do_not_fit_change_nothing():
    model = EncNet("resnet18", 3, width=0.125, head_channels=8)
    before = model.get_weights()
    state = {}
    for key, variable in variable_keys(model, "mmsegmentation"):
        value = np.ones(variable.shape, "float32")
        square = value.ndim == 2 and not key.endswith("codewords")
        state[key] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T if square else value
    load_state(model, state, "mmsegmentation")
    model.set_weights(before)

    incomplete = {**state, "decode_head.extra": np.ones(3)}
    del incomplete["decode_head.conv_seg.bias"]
    with pytest.raises(ValueError, match=r"conv_seg\.bias.*decode_head\.extra"):
        load_state(model, incomplete, "mmsegmentation")
    wrong = {**state, "decode_head.conv_seg.bias": np.ones(4)}
    with pytest.raises(ValueError, match=r"conv_seg\.bias.*\(4,\).*\(3,\)"):
        load_state(model, wrong, "mmsegmentation")
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
