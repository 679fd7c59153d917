"""Checks that exported files give the same outputs as their models, at real size on real images.

    python benchmarks/export_parity.py MODEL … --camvid DIR [--corners both] [--formats onnx …]
        [--sizes 512x512 97x131 1024x2048]

MODEL is the directory of a trained model. Each is exported in every format, in float32 and for any
size, and run on a resized CamVid image in which it finds at least five classes of 2 % of the pixels
each. Logits may differ by 1e-4 of the largest one; labels may differ only where the two best logits
are within 2e-4 of it. Prints a table and exits with 1 if a limit is exceeded.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from turns import size

from keras_encnet import EncNet, data
from keras_encnet.data.resizing import resize_image
from keras_encnet.export import FORMATS, open_export

LARGEST_DIFFERENCE = 1e-4
CLEAR = 2e-4
CLASSES, SHARE = 5, 0.02
COLUMNS = ("model", "corners", "size", "format", "logits", "presence", "labels", "wrong", "classes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--camvid", required=True, metavar="DIR")
    parser.add_argument("--corners", choices=("own", "both"), default="own", help="align_corners")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--sizes", nargs="+", type=size, default=[(512, 512), (97, 131), (1024, 2048)])
    options = parser.parse_args()
    pairs = data.camvid(options.camvid, "val")
    print_row(*COLUMNS)
    print_row(*["---"] * len(COLUMNS))
    broken = 0
    for directory in options.models:
        trained = EncNet.from_preset(str(directory))
        own = trained.align_corners
        for align_corners in (own,) if options.corners == "own" else (False, True):
            model = variant(trained, align_corners)
            name = directory.parent.name if directory.name == "model" else directory.name
            for row, holds in check(model, pairs, options.sizes, options.formats):
                print_row(name, "aligned" if align_corners else "not", *row)
                broken += not holds
    print(f"\n{broken} limits exceeded" if broken else "\nAll limits are met.")
    sys.exit(broken > 0)


def variant(model, align_corners):
    """The same weights in float32 with the given corner rule, without resizing or windows."""
    changes = {"align_corners": align_corners, "dtype": "float32", "evaluation": None}
    made = EncNet.from_config({**model.get_config(), **changes})
    made.set_weights(model.get_weights())
    return made


def check(model, pairs, sizes, formats):
    """Yields the remaining cells of each row, and whether it meets the limits."""
    wanted = [answers(model, pairs, *each) for each in sizes]
    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        for format in formats:
            outputs = ("labels", "presence", "logits") if model.se_head else ("labels", "logits")
            run = open_export(model.export(Path(scratch, format), format, outputs=outputs))
            for (height, width), (image, logits, labels, presence) in zip(sizes, wanted, strict=True):
                found = run(image[None])
                scale = abs(logits).max()
                difference = abs(found["logits"][0] - logits).max() / scale
                change = abs(found["presence"][0] - presence).max() if model.se_head else 0
                second, best = np.moveaxis(np.partition(logits, -2, axis=-1)[..., -2:], -1, 0)
                same = found["labels"][0] == labels
                wrong = int((~same & (best - second > CLEAR * scale)).sum())
                classes = large_classes(labels)
                row = (
                    f"{height}×{width}",
                    format,
                    f"{difference:.1e}",
                    f"{change:.1e}",
                    f"{same.mean():.4%}",
                    wrong,
                    classes,
                )
                holds = difference <= LARGEST_DIFFERENCE and not wrong and classes >= CLASSES
                yield row, holds
            del run


def answers(model, pairs, height, width):
    """An image in which the model finds enough classes, with its logits, labels and presence."""
    found = []
    for image, _ in pairs:
        image = resize_image(image, height, width)
        result = model.segment(image)
        found.append((large_classes(result.label_map), image, result))
        if found[-1][0] >= CLASSES:
            break
    _, image, result = max(found, key=lambda each: each[0])
    return image, model.predict_on_batch(image[None])[0], result.label_map, result.presence


def large_classes(labels):
    """The number of classes that cover at least `SHARE` of the pixels each."""
    return int((np.bincount(labels.ravel()) >= SHARE * labels.size).sum())


def print_row(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
