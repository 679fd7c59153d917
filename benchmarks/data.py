"""Does training wait for its data? Compares a step fed by `batches` with one fed from memory.

    python benchmarks/data.py [--backbone resnet18 --width 0.5 --size 240 320 --batch-size 8]

writes random JPEG images of 480×360 (CamVid's size) and PNG masks to a temporary folder, trains an
EncNet on them and on one cached batch, in turn, and prints the median times of a step. The difference
is the wait for data and, if the model runs on the same cores, the processor time that preparing it
takes.
"""

import argparse
import os
import tempfile
import time

import keras
import numpy as np
from PIL import Image
from processor import this_processor

from keras_encnet import EncNet
from keras_encnet.data import batches, folder


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


def write_images(directory, count):
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        os.mkdir(os.path.join(directory, part))
    for i in range(count):
        blobs = Image.fromarray(rng.integers(0, 256, (45, 60, 3), dtype="uint8"))
        image = blobs.resize((480, 360), Image.BICUBIC)
        image.save(os.path.join(directory, "images", f"{i}.jpg"), quality=95)
        mask = Image.fromarray(rng.integers(0, 11, (12, 16), dtype="uint8"))
        mask.resize((480, 360), Image.NEAREST).save(os.path.join(directory, "masks", f"{i}.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        write_images(directory, options.steps * options.batch_size)
        pairs = folder(os.path.join(directory, "images"), os.path.join(directory, "masks"))
        data = batches(
            pairs,
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

    print(this_processor())
    print(f"{keras.backend.backend()}, {options.backbone}", end=" ")
    print(f"x{options.width}, {options.batch_size} x {options.size[0]}x{options.size[1]}")
    print(f"preparing a batch: {prepare:.3f} s of one core")
    for name, clock in clocks.items():
        print(f"step from {name}: {np.median(clock.seconds):.3f} s (median of {len(clock.seconds)})")


if __name__ == "__main__":
    main()
