"""Training in half precision: does it end where float32 does, and does it leave out steps?

    python benchmarks/mixed_precision.py --camvid DIR [--steps 200] [--seeds 5]
        [--dtypes float32 mixed_bfloat16 mixed_float16]

trains a ResNet-18 EncNet of half the width on CamVid, from random weights, on crops of 96×128, and
scores it on the validation images at that size. A seed gives the same weights and batches to every
dtype. Keras scales float16's loss: the scale starts at 2^15 and is halved at each step whose gradients
are not finite, which is left out. The backend is that of KERAS_BACKEND.
"""

import argparse
import math
import time

import keras
import numpy as np
from processor import this_processor

from keras_encnet import EncNet
from keras_encnet.data import batches, camvid
from keras_encnet.training import PolynomialDecay

SIZE, BATCH, CLASSES = (96, 128), 8, 11
FIT = SIZE[::-1]  # long and short side that images are fitted into
DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", required=True, metavar="DIR", help="with train, trainannot, val, …")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, help="each trains once in every dtype")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    options = parser.parse_args()
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {this_processor()}", flush=True)
    scores = {dtype: [] for dtype in options.dtypes}
    for seed in range(options.seeds):
        for dtype in options.dtypes:
            start = time.perf_counter()
            miou, left_out = trained(options.camvid, options.steps, dtype, seed)
            scores[dtype].append(miou)
            seconds = time.perf_counter() - start
            print(f"seed {seed} {dtype:15} mIoU {miou:.4f}, steps left out: {left_out}", end="; ")
            print(f"{seconds:.0f} s", flush=True)
    print_table(scores)


def trained(root, steps, dtype, seed):
    """(mIoU on the validation images, the steps that were left out) of one training."""
    keras.utils.set_random_seed(seed)
    model = EncNet("resnet18", CLASSES, width=0.5, head_channels=128, dtype=dtype)
    model.compile(keras.optimizers.AdamW(PolynomialDecay(2e-3, steps=steps, end=0.0)))
    data = batches(
        camvid(root, "train"), size=SIZE, batch_size=BATCH, augment=True, seed=seed, resize=FIT
    )
    scale, left_out = getattr(model.optimizer, "initial_scale", None), []
    for step in range(steps):
        model.train_on_batch(*data.read(step))
        if scale is not None:
            before, scale = scale, float(model.optimizer.dynamic_scale)
            if scale < before:
                left_out.append(step)
    validation = batches(camvid(root, "val"), size=SIZE, batch_size=BATCH)
    return model.evaluate(validation, verbose=0, return_dict=True)["miou"], left_out


def print_table(scores):
    print("\n| dtype | mIoU (standard deviation) | minus float32's, same seed (standard error) |")
    print("| --- | --- | --- |")
    for dtype, values in scores.items():
        differences = np.subtract(values, scores.get("float32", values))
        error = differences.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        spread = np.std(values, ddof=1) if len(values) > 1 else math.nan
        print(f"| {dtype} | {np.mean(values):.4f} ({spread:.4f}) ", end="")
        print(f"| {differences.mean():+.4f} ({error:.4f}) |")


if __name__ == "__main__":
    main()
