"""How fast are images prepared for training, and does training wait for them?

    python benchmarks/data.py [--mmseg PYTHON] [--ade20k ROOT] [--cores 1 2]

prepares images of ADE20K's recipe (decode, resize, crop, flip, colours, 512×512) with
`keras_encnet.data.batches`, and with mmsegmentation's own pipeline if `--mmseg` names the python of
its environment; data_side.py says how. They take turns, and the median rates are printed, with the
extremes, per core, and as ratios. Without `--ade20k`, ADE20K's directory, the files are drawn: as large
as most of ADE20K's, with as many bytes, and with eight or so classes each.

    python benchmarks/data.py --training [--backbone resnet18 --width 0.5 --size 240 320 --batch-size 8]

trains an EncNet on such files of 480×360 (CamVid's size) and on one cached batch, in turn, and
prints the median times of a step. The difference is the wait for data and, if the model runs on the
same cores, the processor time that preparing it takes.
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
from keras_encnet.data import batches, folder

COUNT = 48  # drawn files
NAMES = {
    "ours": "keras-encnet",
    "ours_workers": "keras-encnet, workers",
    "mmseg": "mmsegmentation",
    "mmseg_alone": "mmsegmentation, without workers",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mmseg", metavar="PYTHON", help="python of mmsegmentation's environment")
    parser.add_argument("--ade20k", metavar="ROOT", type=Path, help="directory of ADE20K")
    parser.add_argument("--cores", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--images", type=int, default=96, help="images per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--training", action="store_true", help="does a training step wait for data?")
    training = parser.add_argument_group("with --training")
    training.add_argument("--backbone", default="resnet18")
    training.add_argument("--width", type=float, default=0.5)
    training.add_argument("--size", type=int, nargs=2, default=(240, 320))
    training.add_argument("--batch-size", type=int, default=8)
    training.add_argument("--steps", type=int, default=8, help="steps per round")
    training.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    print(this_processor())
    with tempfile.TemporaryDirectory() as directory:
        if options.training:
            measure_training(Path(directory), options)
        else:
            measure_rates(options.ade20k or drawn_ade20k(Path(directory)), options)


# === The rate ===


def measure_rates(root, options):
    programs = [(ours, cores) for ours in ("ours", "ours_workers") for cores in options.cores]
    if options.mmseg:
        programs += [("mmseg", cores) for cores in options.cores] + [("mmseg_alone", 1)]
    sides = {program: start(*program, root, options) for program in programs}
    versions = {name: value for side in sides.values() for name, value in side.ready.items()}
    print(*(f"{name} {value}" for name, value in versions.items() if name != "ready"), sep=", ")
    found = {program: [] for program in programs}
    for side in sides.values():
        side.ask()
    for _ in range(options.rounds):
        for program, side in sides.items():
            found[program].append(side.ask()["images_per_second"])
    for side in sides.values():
        side.close()
    show(found)


def start(library, cores, root, options):
    python, env = options.mmseg, {}
    if library.startswith("ours"):
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        python, env = sys.executable, {**environment("cpu", None), "PYTHONPATH": path}
    command = [python, HERE / "data_side.py", library, root]
    command += ["--cores", str(cores), "--images", str(options.images)]
    return Side(NAMES[library], command, env)


def show(found):
    """Prints the rates of `{(library, cores): [images per second]}`, and their ratios."""
    rates = {program: median(each) for program, each in found.items()}
    print("images per second (min to max), and per core:")
    for (library, cores), each in found.items():
        rate = rates[library, cores]
        span = f"({min(each):.1f} to {max(each):.1f})"
        print(f"  {NAMES[library]:32} {cores}: {rate:6.1f} {span:16} {rate / cores:6.1f}")
    for (library, cores), rate in rates.items():
        if (library, 1) in rates and cores > 1:
            ratio = rate / rates[library, 1]
            print(f"{NAMES[library]} on {cores}: {ratio:.2f} times its rate on 1")
        if not library.startswith("ours"):
            ratio = rates["ours", cores] / rate
            print(f"keras-encnet on {cores}: {ratio:.2f} times the rate of {NAMES[library]}")


def drawn_ade20k(root):
    """Writes images and annotations in ADE20K's layout, of 512×683 and 683×512."""
    rng = np.random.default_rng(0)
    images, masks = (root / part / "training" for part in ("images", "annotations"))
    for directory in (images, masks):
        directory.mkdir(parents=True)
    for i in range(COUNT):
        size = (683, 512) if i % 4 else (512, 683)
        image, mask = drawn(rng, size, classes=9)
        # About 45 kB, as ADE20K's.
        image.save(images / f"ADE_train_{i:08d}.jpg", quality=72)
        mask.save(masks / f"ADE_train_{i:08d}.png")
    return root


def drawn(rng, size, classes):
    """An image with detail at every scale, and a mask of `classes` regions and unlabelled pixels."""
    image = np.full((size[1], size[0], 3), 128, "float32")
    for cell, height in ((170, 60), (60, 40), (20, 25), (7, 15), (2, 8)):
        image += _smooth(rng, size, cell, 3) * height
    image = image.clip(0, 255).astype("uint8")
    labels = rng.permutation(150)[:classes] + 1
    labels[-1] = 0
    # A few classes have most of the pixels, as in photographs.
    heights = _smooth(rng, size, 110, classes) - 0.25 * np.arange(classes, dtype="float32")
    mask = labels.astype("uint8")[heights.argmax(axis=2)]
    return Image.fromarray(image), Image.fromarray(mask)


def _smooth(rng, size, cell, channels):
    """Random values around 0, which change over `cell` pixels."""
    shape = (size[1] // cell + 2, size[0] // cell + 2)
    planes = (rng.standard_normal(shape).astype("float32") for _ in range(channels))
    return np.stack(
        [np.asarray(Image.fromarray(plane).resize(size, Image.BICUBIC)) for plane in planes], axis=2
    )


# === Training ===


class Clock(keras.callbacks.Callback):
    """Records the seconds of each training step."""

    def __init__(self):
        super().__init__()
        self.seconds, self.last = [], None

    def on_train_batch_begin(self, batch, logs=None):
        self.last = self.last or time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        # Backends that compute asynchronously finish the step when a log is read.
        float(logs["loss"])
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now

    def on_epoch_end(self, epoch, logs=None):
        self.last = None


class Cached(keras.utils.PyDataset):
    """The same batch at every step."""

    def __init__(self, batch, steps):
        super().__init__()
        self.batch, self.steps = batch, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, i):
        return self.batch


def measure_training(directory, options):
    images, masks = directory / "images", directory / "masks"
    rng = np.random.default_rng(0)
    for part in (images, masks):
        part.mkdir()
    for i in range(options.steps * options.batch_size):
        image, mask = drawn(rng, (480, 360), classes=11)
        image.save(images / f"{i}.jpg", quality=95)
        mask.point(lambda label: label % 11).save(masks / f"{i}.png")
    data = batches(
        folder(images, masks),
        size=tuple(options.size),
        batch_size=options.batch_size,
        augment=True,
        seed=0,
    )
    start = time.process_time()
    for i in range(len(data)):
        data[i]
    prepare = (time.process_time() - start) / len(data)
    cached = Cached(data.start_at(0)[0], options.steps)

    model = EncNet(options.backbone, 11, width=options.width, dtype=options.dtype)
    model.compile(metrics=[])
    model.fit(cached, epochs=1, verbose=0)  # compiles
    clocks = {"one cached batch": Clock(), "batches": Clock()}
    for _ in range(options.rounds):
        for clock, source in zip(clocks.values(), (cached, data), strict=True):
            model.fit(source, epochs=1, verbose=0, callbacks=[clock])

    print(f"{keras.backend.backend()}, {options.backbone}", end=" ")
    print(f"x{options.width}, {options.batch_size} x {options.size[0]}x{options.size[1]}")
    print(f"preparing a batch: {prepare:.3f} s of one core")
    for name, clock in clocks.items():
        print(f"step from {name}: {np.median(clock.seconds):.3f} s (median of {len(clock.seconds)})")


if __name__ == "__main__":
    main()
