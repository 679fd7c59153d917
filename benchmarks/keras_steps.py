"""Trains our EncNet for ten steps, as mmseg_steps.py does mmsegmentation's.

    KERAS_BACKEND=tensorflow python benchmarks/keras_steps.py

takes the same requests, without `dtype`. The steps are `train_on_batch` after `compile`, with
`training.SGD` and, if the rate is `decaying`, `training.PolynomialDecay`.
"""

import functools
import importlib
import sys
from pathlib import Path

import keras
import numpy as np
from turns import serve

from keras_encnet import EncNet
from keras_encnet.convert.state import load_state, pytorch_shape, variable_keys
from keras_encnet.training import SGD, PolynomialDecay

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from golden.steps import CLASSES, CODES, HEADS, STEPS, batch
from golden.weights import state_dict


def main():
    def prepare():
        backend = keras.backend.backend()
        versions = {"keras": keras.__version__}
        return {**versions, backend: importlib.import_module(backend).__version__}, answer

    serve(prepare)


def answer(save, **request):
    run = train(**request)
    np.savez(save, **run)
    return {head: list(map(float, run[head])) for head in HEADS}


def train(depth, width, channels, align_corners, decaying, seed, count, size):
    """The run of tests/golden/steps.py that a request asks for."""
    model, optimizer_state = compiled(depth, width, channels, align_corners, decaying)
    variables = variable_keys(model, "mmsegmentation")
    before = state_dict({key: pytorch_shape(key, tuple(v.shape)) for key, v in variables}, seed)
    load_state(model, before, "mmsegmentation")
    for variable, value in zip(model.optimizer.variables, optimizer_state, strict=True):
        variable.assign(value)

    run = {name: [] for name in (*HEADS, "rate")}
    for step in range(STEPS):
        run["rate"].append(float(model.optimizer.learning_rate))
        model.reset_metrics()
        logs = model.train_on_batch(*batch(seed, step, count, *size), return_dict=True)
        for head in HEADS:
            run[head].append(float(logs[f"{head}_loss"]))
    for key, variable in variables:
        run[f"update/{key}"] = _to_pytorch(key, _numpy(variable)) - before[key]
    return run


@functools.lru_cache(1)  # the next seed needs no new graph
def compiled(depth, width, channels, align_corners, decaying):
    """The model, and the values of its optimizer's variables before the first step."""
    model = EncNet(
        f"resnet{depth}",
        CLASSES,
        width=width,
        head_channels=channels,
        num_codes=CODES,
        align_corners=align_corners,
        dropout=0.0,
    )
    model.compile(SGD(PolynomialDecay(0.01, steps=STEPS) if decaying else 0.01))
    model.optimizer.build(model.trainable_variables)
    return model, [_numpy(variable) for variable in model.optimizer.variables]


def _numpy(variable):
    return np.array(keras.ops.convert_to_numpy(variable.value))


def _to_pytorch(key, value):
    if value.ndim == 4:  # (h, w, in, out) -> (out, in, h, w)
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2 and not key.endswith("codewords"):
        return value.T
    return value


if __name__ == "__main__":
    main()
