"""Runs a program of docs/distribution.md with a tiny network, on virtual devices:

    python distributed.py HEADING OUT DEVICES HOSTS INDEX PORT

and writes what it has learned to the file OUT. "One device" is the first program without its devices.
"""

import json
import os
import pathlib
import re
import sys

import numpy as np

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "distribution.md"


def main(heading, out, devices, hosts, index, port):
    devices, hosts, index, port = map(int, (devices, hosts, index, port))
    prepare(devices, hosts, index, port)
    import keras

    names = {**beginning(), "index": index}
    names["hosts"] = [f"localhost:{port + i}" for i in range(hosts)]
    os.chdir(pathlib.Path(out).parent)  # some programs save the model
    exec(program(heading, devices), names)
    model = names["model"]
    if "replica" in names and index:
        return  # one process of `torch.distributed` evaluates
    if "replica" in names:
        validation = names["data"].batches(
            names["validation_pairs"], size=names["size"], batch_size=names["batch_size"]
        )
        logs = model.evaluate(validation, verbose=0, return_dict=True)
        logs = {f"val_{name}": [value] for name, value in logs.items()}
    else:
        logs = model.history.history
    if hosts == 1:  # arrays, of which each process would have to give a part
        loss, miou = model.evaluate(IMAGES[16:], MASKS[16:], batch_size=8, verbose=0)
        logs |= {"loss of arrays": [loss], "miou of arrays": [miou]}
    weights = [weight for weight in model.weights if not weight.path.endswith("seed_generator_state")]
    arrays = {weight.path: keras.ops.convert_to_numpy(weight) for weight in weights}
    np.savez(out, logs=json.dumps(logs), label_map=model.segment(IMAGES[0]).label_map, **arrays)


def prepare(devices, hosts, index, port):
    """Makes virtual devices, and says what `torchrun` would say."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ |= {"RANK": str(index), "WORLD_SIZE": str(hosts)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * devices
        )


def program(heading, devices):
    """The code below a heading."""
    text = DOCS.read_text("utf-8")
    of_heading = "JAX" if heading == "One device" else heading
    code = re.search(rf"^### {of_heading}\n.*?^```python\n(.*?)^```", text, re.M | re.S)[1]
    if heading == "One device":
        code = re.sub(r"^keras.distribution.*\n", "", code)
    # Without GPUs TensorFlow would take one device.
    cpus = [f"CPU:{i}" for i in range(devices)]
    return code.replace("distribute.MirroredStrategy()", f"distribute.MirroredStrategy({cpus})")


IMAGES = np.random.default_rng(0).integers(0, 256, (27, 40, 56, 3), dtype="uint8")
MASKS = (IMAGES[..., 0] // 100).astype("uint8")
for i, mask in enumerate(MASKS):  # each has another number of pixels that count
    mask[: i % 16] = 255


def beginning():
    """What the programs begin with: ten steps in all."""
    import keras

    from keras_encnet import data, training
    from training.tiny import tiny

    def make_model():
        model = tiny()
        model.compile(training.SGD(0.01), average="counted", class_weight=[1, 3, 0.5])
        return model

    pairs = list(zip(IMAGES, MASKS, strict=True))
    return {
        "os": os,
        "keras": keras,
        "data": data,
        "make_model": make_model,
        "pairs": pairs[:16],
        "validation_pairs": pairs[16:],  # 11 are one batch and a part of one
        "size": (32, 48),
        "batch_size": 8,
        "epochs": 5,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
