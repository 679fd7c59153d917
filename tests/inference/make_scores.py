"""Writes `scores.npz`: what mmsegmentation and cityscapesscripts make of drawn label maps.

    <python of mmsegmentation's environment> tests/inference/make_scores.py

The environment needs mmsegmentation 1.2.2, as benchmarks/README.md describes it, and `pip install
cityscapesscripts==2.2.4`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
VOID = 255
CASES = {"ade20k": 150, "cityscapes": 19}
IDS = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])


def label_maps(num_classes):
    """Truths and predictions of three images, `uint8`. The last class is in neither, the one before it
    only predicted, and the one before that never predicted."""
    drawn = np.random.RandomState(num_classes)
    truths, predictions = [], []
    for height, width in ((60, 90), (75, 64), (33, 120)):
        truth = drawn.randint(0, num_classes - 2, (height, width))
        other = drawn.randint(0, num_classes - 1, (height, width))
        prediction = np.where(drawn.rand(height, width) < 0.6, truth, other)
        prediction[prediction == num_classes - 3] = 1
        truth[drawn.rand(height, width) < 0.1] = VOID
        truths.append(truth.astype("uint8"))
        predictions.append(prediction.astype("uint8"))
    return predictions, truths


def mmsegmentation(num_classes):
    """Figures of its `IoUMetric`, from its counts in float64."""
    import torch
    from mmseg.evaluation import IoUMetric

    counts = [
        IoUMetric.intersect_and_union(*map(torch.from_numpy, pair), num_classes, VOID)
        for pair in zip(*label_maps(num_classes), strict=True)
    ]
    totals = [sum(area.double() for area in areas) for areas in zip(*counts, strict=True)]
    figures = IoUMetric.total_area_to_metrics(*totals, ["mIoU", "mDice"])
    return {name: np.asarray(value) for name, value in figures.items()}


def cityscapesscripts():
    """IoU of its classes, and their mean, from files of label ids."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as scoring
    from PIL import Image

    scoring.args.evalInstLevelScore = scoring.args.JSONOutput = False
    scoring.args.quiet = True
    with tempfile.TemporaryDirectory() as here:
        files = []
        for kind, maps in zip(("found", "truth"), label_maps(19), strict=True):
            for i, label_map in enumerate(maps):
                ids = np.where(label_map == VOID, 0, IDS[np.minimum(label_map, 18)])
                path = Path(here, f"bonn_000000_{i:06d}_{kind}.png")
                Image.fromarray(ids.astype("uint8")).save(path)
                files.append(str(path))
        result = scoring.evaluateImgLists(files[:3], files[3:], scoring.args)
    names = [label.name for label in scoring.labels if label.trainId in range(19)]
    return {
        "IoU": np.array([result["classScores"][name] for name in names]),
        "mIoU": np.array(result["averageScoreClasses"]),
    }


def main():
    sys.path.insert(0, str(BENCHMARKS))
    from mmseg_reference import stub_mmcv_extensions

    stub_mmcv_extensions()
    found = {f"mmsegmentation/{name}": mmsegmentation(count) for name, count in CASES.items()}
    found["cityscapesscripts"] = cityscapesscripts()
    arrays = {f"{case}/{name}": value for case, row in found.items() for name, value in row.items()}
    np.savez_compressed(Path(__file__).with_name("scores.npz"), **arrays)


if __name__ == "__main__":
    main()
