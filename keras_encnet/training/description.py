"""A training run in words."""

import math
import os
import pathlib
import platform

import keras

from keras_encnet.data.batching import Batches
from keras_encnet.data.conventions import class_names

LISTED = 12  # class names
FILES = "checkpoints, best.keras, history.csv and curves.png"


def describe_run(
    model: keras.Model,
    data: Batches,
    *,
    steps: int,
    steps_per_epoch: int | None = None,
    validation=None,
    directory: str | os.PathLike | None = None,
) -> str:
    """What a person wants to know of a training run when it begins, in some lines.

    Args:
        model: a compiled `EncNet`.
        data: the batches to train on, at the step from where they are used.
        steps: total number of steps.
        steps_per_epoch: steps in an epoch of the run. Default: in one of the data.
        validation: what is validated on, such as `Pairs`; only its length is used.
        directory: where the run is kept.

    Returns:
        Lines of text: data, classes, model, optimizer, device, length, files.
    """
    steps_per_epoch = steps_per_epoch or data.steps_per_epoch
    names = class_names(model.num_classes, model.labels or data.pairs.labels)
    lines = {
        "Data": _data(data, validation),
        "Classes": f"{len(names)}: {', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''}",
        "Model": _model(model),
        "Optimizer": _optimizer(model.optimizer),
        "Device": f"{_devices()}; {model.dtype_policy.name}",
        "Software": f"{keras.backend.backend()}, Keras {keras.version()}",
        "Length": _length(data.step, steps, steps_per_epoch),
    }
    if directory is not None:
        lines["Files"] = f"{pathlib.Path(directory)}: {FILES}"
    return "\n".join(f"{name:10} {text}" for name, text in lines.items())


def _data(data, validation):
    height, width = data.size
    crops = f"in crops of {height} × {width}, {data.batch_size} in a step"
    text = f"{_count(len(data.pairs), 'image')} {crops}"
    if validation is None:
        return f"{text}; no validation"
    held = f"{_count(len(validation), 'image')} " if hasattr(validation, "__len__") else "data "
    return f"{text}; {held}for validation"


def _model(model):
    weights, trained = _size(model.weights), _size(model.trainable_weights)
    # What is never trained: the statistics of batch norms.
    statistics = _size(v for v in model.weights if v.name in ("moving_mean", "moving_variance"))
    name = model.backbone_name or "a backbone of one's own"
    text = f"EncNet with {name}, {_millions(weights)} million weights"
    if trained < weights - statistics:
        return f"{text}, of which {_millions(trained)} million are trained"
    return text


def _size(variables):
    return sum(math.prod(variable.shape) for variable in variables)


def _millions(number):
    return f"{number / 1e6:.3g}"


def _optimizer(optimizer):
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    return f"{type(optimizer).__name__}, learning rate {rate:.4g} now"


def _length(step, steps, steps_per_epoch):
    epochs = -(-steps // steps_per_epoch)
    text = f"{_count(steps, 'step')}: {_count(epochs, 'epoch')} of {steps_per_epoch}"
    return f"{text}; resumes after step {step}" if step else text


def _devices():
    """The accelerators that the backend finds, or the processor."""
    backend = keras.backend.backend()
    found = []
    if backend == "tensorflow":
        import tensorflow as tf

        for device in tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(device)
            found.append(details.get("device_name", "GPU"))
    elif backend == "jax":
        import jax

        found = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    elif backend == "torch":
        import torch

        found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    kinds = [f"{found.count(kind)} × {kind}" for kind in dict.fromkeys(found)]
    return ", ".join(kinds) or f"CPU: {_processor()}, {_count(os.cpu_count() or 1, 'core')}"


def _processor():
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _count(number, word):
    return f"{number:,} {word}{'' if number == 1 else 's'}"
