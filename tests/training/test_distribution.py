"""Several devices and processes train as one does: the programs of docs/distribution.md."""

import json
import math
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_encnet import EncNet
from keras_encnet.layers.policies import without_memory
from training.tiny import tiny

HERE = pathlib.Path(__file__).parent
BACKEND = keras.backend.backend()
slow = pytest.mark.slow


def start(heading, out, *, devices=1, hosts=1, index=0, port=0):
    command = [sys.executable, HERE / "distributed.py", heading, out]
    return subprocess.Popen(
        [*command, *map(str, (devices, hosts, index, port))],
        env={**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONPATH": f"{HERE.parents[1]}:{HERE.parent}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results(heading, directory, *, devices=1, hosts=1):
    """What each process has learned, from process 0 on."""
    port = free_port()
    files = [directory / f"{i}.npz" for i in range(hosts)]
    processes = [
        start(heading, file, devices=devices, hosts=hosts, index=i, port=port)
        for i, file in enumerate(files)
    ]
    try:
        printed = [process.communicate(timeout=500)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n".join(printed)
    return [dict(np.load(file)) for file in files if file.exists()]


def free_port():
    """A port with a free one after it, for two hosts."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("localhost", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("localhost", port + 1))
            except OSError:
                continue
            return port


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return results("One device", tmp_path_factory.mktemp("one"))[0]


PROGRAMS = [
    pytest.param("jax", "JAX", 8, 1),
    pytest.param("tensorflow", "TensorFlow", 2, 1),
    pytest.param("torch", "PyTorch", 1, 2),
    pytest.param("tensorflow", "TensorFlow", 8, 1, marks=slow),
    pytest.param("torch", "PyTorch", 1, 4, marks=slow),
    pytest.param("jax", "JAX on four hosts", 2, 2, marks=slow),
    pytest.param("tensorflow", "TensorFlow on four hosts", 2, 2, marks=slow),
]


@pytest.mark.parametrize("backend,heading,devices,hosts", PROGRAMS)
def test_trains_as_one_device_does(backend, heading, devices, hosts, expected, tmp_path):
    if backend != BACKEND:
        pytest.skip(f"needs {backend}")
    for found in results(heading, tmp_path, devices=devices, hosts=hosts):
        assert found.keys() == expected.keys()
        logs, expected_logs = (json.loads(str(each["logs"])) for each in (found, expected))
        for name in logs:
            assert logs[name] == pytest.approx(expected_logs[name][-len(logs[name]) :], rel=1e-5), name
        for name in expected.keys() - {"logs", "label_map"}:
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5 * scale)
        np.testing.assert_array_equal(found["label_map"], expected["label_map"])


@pytest.mark.parametrize("average", ["all", "counted"])
def test_padding_counts_nowhere(average):
    # As `batches(shard=...)` completes the last batch: black, ignored, weight 0.
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype="uint8")
    masks = (images[..., 0] // 100).astype("uint8")
    masks[:, :9] = 255
    weights = np.ones(8, "float32")
    images[5:], masks[5:], weights[5:] = 0, 255, 0
    model = tiny()
    model.compile(average=average)
    found = model.evaluate(images, masks, sample_weight=weights, batch_size=4, verbose=0)
    expected = model.evaluate(images[:5], masks[:5], batch_size=4, verbose=0)
    assert found == pytest.approx(expected, rel=1e-6)


def test_parameters_in_the_docs():
    text = (HERE.parents[1] / "docs" / "distribution.md").read_text("utf-8")
    counts = []
    for name in ("resnet50", "resnet101"):
        model = without_memory(lambda name=name: EncNet(name, 150))
        counts.append(sum(math.prod(weight.shape) for weight in model.trainable_weights))
    assert f"| trained parameters | {counts[0]:,} | {counts[1]:,} |" in text
