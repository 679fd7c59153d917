"""Evaluates a model on CamVid here and in the originals' pipelines: labels, mIoU and time.

    python benchmarks/evaluate.py MODEL --camvid DIR [--mmseg PYTHON] [--encoding] [--limit 20]
        [--runs 3] [--ways whole slide "ms + flip"]

MODEL is the name or directory of a preset with CamVid's eleven classes. The images are seen as the
releases see ADE20K's and Cityscapes', but smaller. With `--mmseg`, the python of mmsegmentation's
environment (see README.md), the same weights run in mmsegmentation's pipeline, from files to
`IoUMetric`, and with `--encoding` also in PyTorch-Encoding's evaluator. For each way it prints how many
labels are equal, both mIoU, the seconds of both, and how much longer `evaluate` takes than the calls of
the network alone. mmsegmentation runs with one thread and with one for each core, and the faster
counts: PyTorch's threads wait for each other by spinning, so that two may be several times slower than
one if anything else runs. Exits with 1 if fewer than 99.999 % of the labels are equal, mIoU differ by
more than 0.001, or `evaluate` takes over 10 % longer than the network alone.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import keras
import numpy as np
from PIL import Image
from processor import this_processor
from turns import HERE, Side, environment

from keras_encnet import EncNet
from keras_encnet.convert.state import variable_keys
from keras_encnet.data import camvid
from keras_encnet.inference import evaluate

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
WAYS = {  # options of `segment`, and the corner rule of the releases that are seen so
    "whole": (False, {"resize": (1024, 256), "window": False}),
    "slide": (True, {"resize": (769, 385), "window": 257, "stride": 171}),
    "ms + flip": (False, {"window": False, "ratios": RATIOS, "flip": True}),
}
ENCODING = {
    "PyTorch-Encoding": (
        True,
        {
            "protocol": "pytorch-encoding",
            "resize": 320,
            "window": 288,
            "ratios": (0.75, 1.0, 1.25),
            "flip": True,
        },
    ),
}
EQUAL, DIFFERENCE, LONGER = 0.99999, 0.001, 1.1
THREADS = sorted({1, os.cpu_count() or 1})  # of mmsegmentation


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or directory of a preset")
    parser.add_argument("--camvid", required=True, metavar="DIR", help="with val and valannot")
    parser.add_argument("--mmseg", metavar="PYTHON", help="python of mmsegmentation's environment")
    parser.add_argument("--encoding", action="store_true", help="also PyTorch-Encoding's evaluator")
    parser.add_argument("--ways", nargs="+", choices=(*WAYS, *ENCODING))
    parser.add_argument("--limit", type=int, help="number of images; default: all")
    parser.add_argument("--runs", type=int, default=1, help="timed rounds; 0 compares labels alone")
    options = parser.parse_args()
    pairs = camvid(options.camvid, "val")[: options.limit]
    ways = WAYS | (ENCODING if options.encoding else {})
    trained = EncNet.from_preset(options.model, dtype="float32")
    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        side = options.mmseg and start(options.mmseg, trained, Path(scratch))
        if side:
            print(", ".join(f"{name} {text}" for name, text in side.ready.items() if name != "ready"))
        print(f"keras {keras.version()}, {keras.backend.backend()}; {this_processor()}")
        print(f"{options.model}, {len(pairs)} images")
        holds = True
        for name in options.ways or ways:
            corners, how = ways[name]
            model = with_corners(trained, corners)
            row, good = compare(model, pairs, corners, how, side, options.runs, Path(scratch))
            print(f"{name:18}{row}", flush=True)
            holds = holds and good
    sys.exit(not holds)


def with_corners(model, align_corners):
    """The same weights with the given corner rule, seen as the options say."""
    made = EncNet.from_config(
        {**model.get_config(), "align_corners": align_corners, "evaluation": None}
    )
    made.set_weights(model.get_weights())
    return made


def compare(model, pairs, corners, how, side, runs, scratch):
    """The figures of one way of seeing images, and whether they are within the limits."""
    saved = scratch / "labels"
    labels, scores = label_maps(model, pairs, how, saved)
    request = requested(pairs, model, corners, how)
    parts, good = [f"mIoU {scores.miou:.5f}"], True
    if side:
        theirs = side.ask(**request, save=f"{saved}.npy")["miou"]
        different = np.load(f"{saved}.npy") != labels
        parts.append(f"theirs {theirs:.5f}")
        parts.append(
            f"{1 - different.mean():.5%} of {labels.size:,} labels equal, {different.sum()} not"
        )
        good = different.mean() <= 1 - EQUAL and abs(scores.miou - theirs) <= DIFFERENCE
    times = {"ours": [], "network": []} | {threads: [] for threads in THREADS}
    for _ in range(runs):
        times["ours"].append(timed(lambda: evaluate(model, pairs, verbose=0, **how)))
        times["network"].append(network_alone(model, pairs, how))
        for threads in THREADS if side else ():
            times[threads].append(side.ask(**request, threads=threads)["seconds"])
    if runs:
        ours, alone = median(times["ours"]), median(times["network"])
        parts.append(f"{ours:.1f} s, {ours / alone:.3f} of the network's {alone:.1f} s")
        good = good and ours <= LONGER * alone
    if runs and side:
        found = {threads: median(times[threads]) for threads in THREADS}
        listed = " and ".join(f"{seconds:.1f} s ({n})" for n, seconds in found.items())
        parts.append(f"theirs {listed} by threads, {min(found.values()) / ours:.2f} times ours")
    return "; ".join(parts), good


def label_maps(model, pairs, how, directory):
    """The label maps of `evaluate`, and its `Scores`."""
    with tempfile.TemporaryDirectory(dir=directory.parent) as directory:
        scores = evaluate(model, pairs, save_predictions=directory, verbose=0, **how)
        files = [Path(directory, f"{pairs.name(i)}.png") for i in range(len(pairs))]
        return np.stack([np.asarray(Image.open(file)) for file in files]), scores


def network_alone(model, pairs, how):
    """Seconds of the network for all images, on what `evaluate` shows it of the first one: CamVid's
    images all have the same size."""
    shown = []

    class Recorder:
        def __getattr__(self, name):
            return getattr(model, name)

        def coarse_logits(self, images):
            shown.append(images)
            return model.coarse_logits(images)

    evaluate(Recorder(), pairs, limit=1, verbose=0, **how)

    def run():
        for _ in range(len(pairs)):
            for images in shown:
                model.coarse_logits(images)

    return timed(run)


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# === The other side ===


def start(python, model, scratch):
    """mmsegmentation's process, with the weights of a model."""
    depth = str(model.backbone_name).removeprefix("resnet")
    if not depth.isdigit():
        raise SystemExit(f"The backbone must be a ResNet by name, not {model.backbone_name}.")
    keys = variable_keys(model, "mmsegmentation")
    arrays = {key: pytorch_layout(key, variable) for key, variable in keys}
    np.savez(scratch / "state.npz", **arrays)
    side = Side(
        "mmsegmentation",
        [python, HERE / "mmseg_evaluation.py"],
        {**environment("cpu", None), "PYTHONPATH": os.pathsep.join([str(HERE)])},
    )
    side.ask(
        what="load",
        weights=str(scratch / "state.npz"),
        network={
            "depth": int(depth),
            "width": model.width,
            "num_classes": model.num_classes,
            "num_codes": model.num_codes,
            "channels": model.head_channels,
            "laterals": model.laterals,
            "se_head": model.se_head,
            "output_stride": model.output_stride,
        },
    )
    return side


def pytorch_layout(key, variable):
    """The values of a variable as PyTorch has them."""
    value = keras.ops.convert_to_numpy(variable)
    if value.ndim == 4:  # (h, w, in, out) -> (out, in, h, w)
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    if value.ndim == 2 and not key.endswith("codewords"):
        return np.ascontiguousarray(value.T)
    return value


def requested(pairs, model, corners, how):
    images, masks = zip(*(pairs.files(i) for i in range(len(pairs))), strict=True)
    window, stride = how.get("window") or None, how.get("stride")
    encoding = None
    if how.get("protocol") == "pytorch-encoding":
        encoding = {"base": how["resize"], "crop": window}
    return {
        "what": "evaluate",
        "images": list(map(str, images)),
        "masks": list(map(str, masks)),
        "ignore_index": model.num_classes,
        "way": {
            "align_corners": corners,
            "resize": how.get("resize"),
            "window": window and [window, window],
            "stride": stride and [stride, stride],
            "ratios": how.get("ratios"),
            "flip": how.get("flip", False),
            "encoding": encoding,
        },
    }


if __name__ == "__main__":
    main()
