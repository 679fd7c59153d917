"""Serves our ResNet-50 EncNet for timing, as mmseg_reference.py does mmsegmentation's.

    KERAS_BACKEND=tensorflow python benchmarks/keras_side.py [--dtype float32] [--device cuda]

mmseg_reference.py describes the requests "inference" and "train", their replies, the weights and the
images. On the CPU, inference is `model.segment` and a training step is `train_on_batch` after
`compile()`, both from `uint8` NumPy arrays. On CUDA, with JAX, inference is one compiled function from
a batch to its label maps, both start from arrays on the device, and `peak_mb` is the maximum since the
process started. Further requests:

    {"what": "parts", "height": 512, "width": 512}      where inference spends its time
    {"what": "flops", "height": 256, "width": 256, "training": true}    of a forward pass
    {"what": "compare", "paths": [a, b]}    the share of equal pixels in two saved label maps
    {"what": "export", "path": ..., "format": "onnx"}    writes the model; further options are those
                             of `model.export`, and "norms": true keeps batch norms separate
"""

import argparse
import importlib
import sys
import time
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
from keras import ops
from turns import forget_peak, peak_mb, serve

from keras_encnet import EncNet
from keras_encnet.convert.state import load_state, pytorch_shape, variable_keys
from keras_encnet.export import export as exporting
from keras_encnet.export import graph
from keras_encnet.inference import segmenting
from keras_encnet.layers import ConvNorm, Encoding

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "golden"))
from weights import image, noise, state_dict

CLASSES = 19


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()

    def prepare():
        backend = keras.backend.backend()
        versions = {"keras": keras.__version__}
        versions[backend] = importlib.import_module(backend).__version__
        if options.device == "cuda":
            versions["device"] = _device().device_kind
        return versions, Ours(options.dtype, options.device == "cuda").answer

    serve(prepare)


class Ours:
    """The network and the requests it answers."""

    def __init__(self, dtype, cuda):
        self.dtype, self.cuda = dtype, cuda

    @cached_property
    def model(self):
        model = EncNet("resnet50", CLASSES, dtype=self.dtype)
        shapes = {
            key: pytorch_shape(key, variable.shape)
            for key, variable in variable_keys(model, "mmsegmentation")
        }
        load_state(model, state_dict(shapes), "mmsegmentation")
        return model

    def answer(self, what, **request):
        return getattr(self, what)(**request)

    def inference(self, height, width, batch=1, repeat=1, save=None):
        images = self.images(batch, height, width)
        reply, label_maps = self.timed(lambda: self.label_maps(images), batch, repeat)
        if save:
            np.save(save, ops.convert_to_numpy(label_maps))
        return reply

    def train(self, height, width, batch=1, repeat=1, save=None):
        images = self.images(batch, height, width)
        masks = np.floor((noise("masks", (batch, height, width)) + 1) / 2 * CLASSES).astype("uint8")
        if self.cuda:
            masks = ops.convert_to_tensor(masks)
        if not self.model.compiled:
            self.model.compile()
        step = lambda: self.model.train_on_batch(images, masks, return_dict=True)  # noqa: E731
        reply, logs = self.timed(step, batch, repeat)
        return {**reply, "loss": float(logs["loss"])}

    def parts(self, height, width, batch=1, repeat=3):
        """Median time and number of operations of each part of inference.

        Each part is measured with a network that ends there, so its `seconds` include those of the
        parts before it."""
        images = self.images(batch, height, width)
        counts = multiply_adds(self.model.coarse_network(), (batch, height, width, 3))
        cuts = list(self.cuts())
        clocks = [Clock(lambda run=run: _wait(run(images))) for _, _, run in cuts]
        network, labels = Clock(self.model.coarse_logits), Clock(segmenting.label_map_of)
        object.__setattr__(self.model, "coarse_logits", network)
        segmenting.label_map_of = labels
        total = Clock(lambda: _wait(self.label_maps(images)))
        for _ in range(1 + repeat):
            for clock in (*clocks, total):
                clock()
        object.__delattr__(self.model, "coarse_logits")
        segmenting.label_map_of = labels.function

        parts = []
        for (name, layers, _), clock in zip(cuts, clocks, strict=True):
            flops = 2 * sum(count for key, count in counts.items() if key.startswith(layers))
            parts.append({"name": name, "seconds": clock.median(), "flops": flops})
        reply = {"parts": parts, "flops": 2 * sum(counts.values()), "total": total.median()}
        if not self.cuda:
            reply |= {"network": network.median(), "labels": labels.median()}
        return reply

    def cuts(self):
        """(name, layers, function): the network up to the end of each of its parts."""
        model = self.model
        normalized = model.get_layer("normalize")(model.input)
        # Means, because copying a complete feature map takes time.
        ends = [ops.mean(x, axis=(1, 2)) for x in model.backbone(normalized)]
        names = ["stem, stage 1", "stage 2", "stage 3", "stage 4"]
        layers = [("stem", "stage1"), ("stage2",), ("stage3",), ("stage4",)]
        for name, prefixes, end in zip(names, layers, ends, strict=True):
            yield name, prefixes, keras.Model(model.input, end).predict_on_batch
        head = ("bottleneck", "encoding", "gate", "pixel", "se")
        yield "head", head, model.coarse_network().predict_on_batch

    def flops(self, height, width, batch=1, training=False):
        network = self.model.heads_network() if training else self.model.coarse_network()
        counts = multiply_adds(network, (batch, height, width, 3))
        return {"flops": 2 * sum(counts.values())}

    def compare(self, paths):
        ours, theirs = (np.load(path) for path in paths)
        return {"agreement": float((ours == theirs).mean())}

    def export(self, path, norms=False, calibrate=None, **options):
        if calibrate:
            options |= {"quantize": "int8", "calibration": list(self.images(8, *calibrate))}
        folded = exporting.folded
        if norms:
            exporting.folded = lambda model, *_: with_norms(model)
        try:
            return {"path": str(self.model.export(path, **options))}
        finally:
            exporting.folded = folded

    def images(self, batch, height, width):
        images = np.stack([image(seed, height, width) for seed in range(batch)])
        return ops.convert_to_tensor(images) if self.cuda else images

    def label_maps(self, images):
        if self.cuda:
            variables = self.model.trainable_variables, self.model.non_trainable_variables
            return self.on_device(*([v.value for v in part] for part in variables), images)
        options = {"resize": False, "window": False, "batch_size": len(images)}
        return np.stack([each.label_map for each in self.model.segment(list(images), **options)])

    @cached_property
    def on_device(self):
        import jax

        def label_maps(trainable, non_trainable, images):
            # As constants, the weights would keep XLA busy for minutes.
            logits, _ = self.model.stateless_call(trainable, non_trainable, images, training=False)
            return ops.cast(ops.argmax(logits, axis=-1), "uint8")

        return jax.jit(label_maps)

    def timed(self, work, batch, repeat):
        if not self.cuda:
            forget_peak()
        start = time.perf_counter()
        for _ in range(repeat):
            result = work()
        _wait(result)
        seconds = (time.perf_counter() - start) / repeat
        peak = _device().memory_stats()["peak_bytes_in_use"] / 1e6 if self.cuda else peak_mb()
        return {"seconds": seconds, "images_per_second": batch / seconds, "peak_mb": peak}, result


class Clock:
    """A function that records how long each call takes."""

    def __init__(self, function):
        self.function, self.seconds = function, []

    def median(self):
        """The median over all calls except the first."""
        return float(np.median(self.seconds[1:]))

    def __call__(self, *args, **kwargs):
        start = time.perf_counter()
        result = self.function(*args, **kwargs)
        self.seconds.append(time.perf_counter() - start)
        return result


class ConvThenNorm(graph.FoldedConvNorm):
    """The exported convolution, followed by its batch norm instead of folded with it."""

    build = ConvNorm.build

    def call(self, inputs):
        x = ops.batch_normalization(
            self._convolve(inputs, self.kernel),
            self.moving_mean,
            self.moving_variance,
            axis=-1,
            offset=self.beta,
            scale=self.gamma,
            epsilon=self.epsilon,
        )
        return ops.relu(x) if self.relu else x


def with_norms(model):
    """Like `keras_encnet.export.graph.folded`, but with separate batch norms."""
    pairs = []

    def copy(layer):
        kind = ConvThenNorm if isinstance(layer, ConvNorm) else type(layer)
        pairs.append((layer, kind.from_config({**layer.get_config(), "dtype": "float32"})))
        return pairs[-1][1]

    network = keras.models.clone_model(model.coarse_network(), clone_function=copy, recursive=True)
    for layer, made in pairs:
        made.set_weights(layer.get_weights())
    return network


def multiply_adds(model, shape):
    """The multiply-adds of each layer of a functional model, for one input shape.

    Only convolutions and other matrix products are counted: element-wise operations such as
    normalization, ReLU and resizing are less than a hundredth of them.
    """
    counts = {}

    def call(layer, x, *args, **kwargs):
        y = layer(x, *args, **kwargs)
        if isinstance(layer, keras.Model):
            counts.update(multiply_adds(layer, x.shape))
        elif isinstance(layer, (ConvNorm, keras.layers.Conv2D, keras.layers.Dense)):
            # Each output value is the product of a patch and a column of the kernel.
            counts[layer.name] = int(np.prod(y.shape) * np.prod(layer.kernel.shape[:-1]))
        elif isinstance(layer, Encoding):
            # Distances to the codewords, and weighted sums of the residuals.
            counts[layer.name] = int(2 * np.prod(x.shape) * layer.num_codes)
        return y

    keras.models.clone_model(
        model,
        input_tensors=keras.Input(batch_shape=shape),
        clone_function=lambda layer: layer,
        call_function=call,
    )
    return counts


def _wait(result):
    """Waits until a tensor has been computed."""
    if hasattr(result, "block_until_ready"):
        result.block_until_ready()
    elif keras.ops.is_tensor(result):
        # On the other backends, reading a value waits for it.
        ops.convert_to_numpy(result[:1])


def _device():
    import jax

    return jax.local_devices()[0]


if __name__ == "__main__":
    main()
