"""What 8-bit integers cost in mIoU and gain in time: a trained model's exported files on CamVid.

    python benchmarks/int8.py MODEL --camvid DIR

exports the model (a preset with CamVid's eleven classes) to ONNX and LiteRT, in float32 and with
`quantize="int8"` calibrated on every fourth training image, and compares each file with the model in
float32 on the validation images. They take turns, image by image; seconds are medians, from `uint8`
image to label map in NumPy.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from processor import this_processor

from keras_encnet import EncNet
from keras_encnet.data import camvid
from keras_encnet.export import open_export
from keras_encnet.inference import score


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or directory of a preset")
    parser.add_argument(
        "--camvid", required=True, metavar="DIR", help="directory with train, val and valannot"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of ONNX Runtime and LiteRT")
    options = parser.parse_args()
    model = EncNet.from_preset(options.model, dtype="float32")
    pairs = camvid(options.camvid, "val")
    calibration = sorted(Path(options.camvid, "train").iterdir())[::4]
    with tempfile.TemporaryDirectory() as scratch:
        sides = {
            "Keras": (lambda images: model.segment(images[0]).label_map[None], 4 * model.count_params())
        }
        for format in ("onnx", "litert"):
            for name, how in (
                ("float32", {}),
                ("int8", {"quantize": "int8", "calibration": calibration}),
            ):
                path = model.export(Path(scratch, name), format, outputs="labels", **how)
                sides[f"{format} {name}"] = runner(path, options.threads), path.stat().st_size
        found, seconds = run_all(sides, pairs)
    print(this_processor())
    print(f"{options.model}: {len(pairs)} images, {len(calibration)} for calibration")
    print(f"{'':16}{'mIoU':>8}{'pixels':>9}{'as Keras':>10}{'MB':>7}{'seconds':>9}")
    for name, (_, size) in sides.items():
        result = score(found[name], (mask for _, mask in pairs), model.num_classes)
        same = np.mean([(a == b).mean() for a, b in zip(found[name], found["Keras"], strict=True)])
        print(
            f"{name:16}{result.miou:8.2%}{result.pixel_accuracy:9.2%}{same:10.2%}{size / 1e6:7.1f}"
            f"{np.median(seconds[name]):9.3f}"
        )


def runner(path, threads):
    run = open_export(path, threads=threads)
    return lambda images: run(images)["labels"]


def run_all(sides, pairs):
    """The label maps and seconds of each side, as dicts of lists."""
    found, seconds = ({name: [] for name in sides} for _ in range(2))
    for run, _ in sides.values():
        run(pairs[0][0][None])
    for image, _ in pairs:
        for name, (run, _) in sides.items():
            start = time.perf_counter()
            found[name].append(run(image[None])[0])
            seconds[name].append(time.perf_counter() - start)
    return found, seconds


if __name__ == "__main__":
    main()
