"""Serves an exported file for timing, in its runtime.

    python benchmarks/export_side.py PATH [--precision bf16]

Requests and replies are those of "inference" in mmseg_reference.py; a reply also has the `presence` of
the first image, and `before_mb`, the process's memory before the request. Neither keras_encnet nor
Keras is loaded, so the process is as large as a server with the runtime alone.
"""

import argparse
import importlib
import importlib.metadata
import os
import sys
import time
import types
from pathlib import Path

import numpy as np
from turns import forget_peak, peak_mb, serve

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "golden"))
from weights import image

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = {
    "": "tensorflow",
    ".onnx": "onnxruntime",
    ".tflite": "ai-edge-litert",
    ".xml": "openvino",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--precision", default="f32", choices=("f32", "bf16"), help="OpenVINO's")
    options = parser.parse_args()

    def prepare():
        ready = {}
        package = PACKAGES[options.path.suffix]
        ready[package] = importlib.metadata.version(package)
        if package == "openvino":
            import openvino

            own = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
            ready["OpenVINO's default precision"] = own
        # LiteRT's default is one thread, the others' every core.
        threads = os.cpu_count() if package == "ai-edge-litert" else None
        run = runtimes().open_export(options.path, threads, options.precision)
        return ready, Exported(run).answer

    serve(prepare)


def runtimes():
    """`keras_encnet.export.runtimes`, without Keras, which importing its packages would load."""
    for name in ("keras_encnet", "keras_encnet.data", "keras_encnet.export"):
        sys.modules[name] = package = types.ModuleType(name)
        package.__path__ = [str(ROOT.joinpath(*name.split(".")))]
    return importlib.import_module("keras_encnet.export.runtimes")


class Exported:
    """An exported file and the request it answers."""

    def __init__(self, run):
        self.run = run

    def answer(self, what, height, width, batch=1, repeat=1, save=None):
        if what != "inference":
            raise ValueError(f'`what` must be "inference". Received: {what!r}')
        images = np.stack([image(seed, height, width) for seed in range(batch)])
        forget_peak()
        before = peak_mb()
        start = time.perf_counter()
        for _ in range(repeat):
            results = self.run(images)
        seconds = (time.perf_counter() - start) / repeat
        reply = {"seconds": seconds, "images_per_second": batch / seconds}
        reply |= {"peak_mb": peak_mb(), "before_mb": before}
        if save:
            np.save(save, results["labels"])
        return {**reply, "presence": results["presence"][0].tolist()}


if __name__ == "__main__":
    main()
