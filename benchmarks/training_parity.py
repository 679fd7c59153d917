"""Ten training steps here and in mmsegmentation: are they the same?

    python benchmarks/training_parity.py --mmseg PYTHON [--depths 18 50] [--seeds 3] [--width 1]
        [--backends tensorflow jax torch] [--golden FILE]

The same weights, images and masks go through ten steps of mmsegmentation (train mode, dropout off, its
SGD and its `PolyLR`) and of ours: ResNet-18 and -50, both corner rules, a constant and a decaying
learning rate. Rounding grows from step to step, so the yardstick is mmsegmentation itself: how far its
float32 is from its float64. For every backend the table has how far ours is from that float64, divided
by the yardstick (geometric mean over the seeds), and in how many of the seeds ours is closer. Now and
then a rounding error decides whether a ReLU lets a value through: that run is then far from all others,
whichever program it is of, so that one seed says little.

`--golden FILE` instead writes what tests/training/test_parity_steps.py compares with.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from turns import HERE, Side, environment

sys.path.insert(0, str(HERE.parent / "tests"))
from golden.steps import HEADS, deviations, sampled

PARTS = (*HEADS, "weights", "statistics")
SIZES = {"count": 4, "size": [64, 96]}
# The backbone, the corner rule, and whether the rate decays; the weights' seed.
GOLDEN = {
    "centres": {"depth": 18, "align_corners": False, "decaying": True, "seed": 0},
    "corners": {"depth": 18, "align_corners": True, "decaying": False, "seed": 1},
}
NARROW = {"width": 0.125, "channels": 32, "count": 2, "size": [32, 48]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--mmseg", required=True, metavar="PYTHON", help="of mmsegmentation's environment"
    )
    parser.add_argument("--depths", type=int, nargs="+", default=(18, 50))
    parser.add_argument("--backends", nargs="+", default=("tensorflow", "jax", "torch"))
    parser.add_argument("--seeds", type=int, default=3, help="of weights, images and masks")
    parser.add_argument("--width", type=float, default=1.0, help="factor on every number of channels")
    parser.add_argument("--golden", metavar="FILE", help="write the golden runs to this .npz")
    options = parser.parse_args()
    theirs = Side("mmsegmentation", [options.mmseg, HERE / "mmseg_steps.py"], environment("cpu", None))
    if options.golden:
        write_golden(theirs, options.golden)
    else:
        ours = [start(backend) for backend in options.backends]
        print(", ".join(f"{k} {v}" for side in [theirs, *ours] for k, v in side.ready.items()))
        compare(theirs, ours, options)
        for side in ours:
            side.close()
    theirs.close()


def start(backend):
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    env = {"KERAS_BACKEND": backend, "PYTHONPATH": path, **environment("cpu", None)}
    return Side(backend, [sys.executable, HERE / "keras_steps.py"], env)


def compare(theirs, ours, options):
    print(f"| {' | '.join(['ten steps', 'run', *PARTS])} |")
    print("| --- " * (2 + len(PARTS)) + "|")
    channels = max(1, round(512 * options.width))
    for depth in options.depths:
        for align_corners in (False, True):
            for decaying in (False, True):
                case = {"depth": depth, "align_corners": align_corners, "decaying": decaying}
                case |= {"width": options.width, "channels": channels, **SIZES}
                found = [
                    measured(theirs, ours, {**case, "seed": seed}) for seed in range(options.seeds)
                ]
                name = f"ResNet-{depth}, {'corners' if align_corners else 'centres'}, "
                print_rows(name + ("decaying" if decaying else "constant"), found)


def measured(theirs, ours, request):
    """{side: deviations from the float64 run}."""
    with tempfile.TemporaryDirectory() as folder:
        exact = run_of(theirs, folder, dtype="float64", **request)
        found = {theirs.name: deviations(run_of(theirs, folder, dtype="float32", **request), exact)}
        for side in ours:
            found[side.name] = deviations(run_of(side, folder, **request), exact)
    return found


def run_of(side, folder, **request):
    path = Path(folder, "run.npz")
    side.ask(save=str(path), **request)
    with np.load(path) as arrays:
        return dict(arrays)


def print_rows(case, found):
    """`found` is a list of {side: {part: deviation}}, one for each seed; mmsegmentation is first."""
    theirs, *ours = found[0]
    yardstick = {part: _mean(each[theirs][part] for each in found) for part in PARTS}
    print(f"| {case} | its float32 | {' | '.join(f'{yardstick[part]:.1e}' for part in PARTS)} |")
    for name in ours:
        cells = []
        for part in PARTS:
            ratios = [each[name][part] / each[theirs][part] for each in found]
            closer = sum(ratio < 1 for ratio in ratios)
            cells.append(f"{_mean(ratios):.2f} ({closer} of {len(ratios)})")
        print(f"| | {name} | {' | '.join(cells)} |", flush=True)


def _mean(values):
    return float(np.exp(np.mean(np.log(list(values)))))


def write_golden(theirs, path):
    arrays = {}
    for name, case in GOLDEN.items():
        request = {**case, **NARROW}
        with tempfile.TemporaryDirectory() as folder:
            runs = [run_of(theirs, folder, dtype=d, **request) for d in ("float64", "float32")]
        exact, rounded = (sampled(run) for run in runs)
        arrays |= {f"{name}/{key}": value for key, value in exact.items()}
        for part, value in deviations(rounded, exact).items():
            arrays[f"{name}/yardstick/{part}"] = np.array(value)
            print(name, part, value)
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()
