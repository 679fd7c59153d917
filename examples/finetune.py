"""Fine-tunes a trained network on a small data set, and compares that with training from scratch.

    python examples/finetune.py WEIGHTS --camvid DIR --limit 40
    python examples/finetune.py WEIGHTS --images DIR --masks DIR --labels sky road car

WEIGHTS is any preset: a name of `keras-encnet presets`, a directory that `save_to_preset` or
`keras-encnet demo` wrote, or `hf://user/repo`. Its classes may be others: the classifiers are replaced.

The same network is trained in three ways on the same images, for the same number of steps and with the
same learning rates: from random weights; from WEIGHTS; and from WEIGHTS with the backbone frozen at
first. A table in Markdown has the mean IoU on images that were not used in training. The last model is
saved in `--out`.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

from keras_encnet import EncNet, data, evaluate, training

WAYS = {  # whether it starts from the trained weights, and whether the backbone is frozen at first
    "from random weights": (False, False),
    "from trained weights": (True, False),
    "from trained weights, the backbone frozen at first": (True, True),
}


def main(arguments=None):
    options = parse(arguments)
    seen, unseen = pairs_of(options)
    crop = (3 * options.side // 4,) * 2
    batch_size = min(options.batch_size, len(seen))
    print(f"{len(seen)} images for training, {len(unseen)} for evaluation")

    def run(trained, frozen, rate, seed):
        batches = data.batches(
            seen,
            size=crop,
            batch_size=batch_size,
            augment=True,
            seed=seed,
            resize=(options.side, options.side),
            scale=(0.75, 1.5),
        )
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        # The labels bring new classifiers; everything else is as in the preset.
        model = EncNet.from_preset(
            options.weights,
            num_classes=len(seen.labels),
            labels=seen.labels,
            load_weights=trained,
            dtype="float32",
        )
        train(model, batches, options.epochs, options.frozen if frozen else 0, rate)
        scores = evaluate(model, unseen, resize=options.side, window=False, verbose=0)
        return model, scores.miou

    rows, steps = [], options.epochs * max(1, len(seen) // batch_size)
    for way, (trained, frozen) in WAYS.items():
        for rate in options.rates:
            found = []
            for seed in range(options.seeds):
                model, miou = run(trained, frozen, rate, seed)
                found.append(miou)
                print(f"{way}, learning rate {rate:g}, seed {seed}: mIoU {miou:.3f}", flush=True)
            rows.append((way, rate, found))
    model.save_to_preset(options.out)
    print(f"\n{table(rows, steps)}\n\nThe last model is in {options.out}.")
    return rows


def train(model, batches, epochs, frozen, rate):
    """Trains the heads alone for `frozen` epochs, then everything for the rest of `epochs`.

    New classifiers are wrong about everything at first, and what they send back would spoil the
    backbone."""
    if frozen:
        model.backbone.trainable = False
        model.compile(keras.optimizers.Adam(rate, beta_2=0.99))
        model.fit(batches, epochs=frozen, verbose=0)
        model.backbone.trainable = True
    steps = (epochs - frozen) * batches.steps_per_epoch
    schedule = training.PolynomialDecay(rate, steps=steps, end=0.0, warmup=min(20, steps))
    # A model is compiled anew after a change of `trainable`.
    model.compile(keras.optimizers.Adam(schedule, beta_2=0.99))
    model.fit(batches, initial_epoch=frozen, epochs=epochs, verbose=0)


def pairs_of(options):
    """The pairs for training, those of `--limit` spread over all, and the pairs for evaluation."""
    if options.camvid:
        seen, unseen = (data.camvid(options.camvid, split) for split in ("train", "val"))
    else:
        pairs = data.folder(options.images, options.masks, labels=options.labels)
        seen, unseen = data.random_split(pairs, (0.8, 0.2))
    if options.limit and options.limit < len(seen):
        # Not the first ones: neighbours are frames of one film.
        seen = seen.subset(np.linspace(0, len(seen) - 1, options.limit).astype(int).tolist())
    return seen.load(), unseen.load()


def table(rows, steps):
    lines = [f"| mean IoU after {steps} steps | learning rate | mean | each seed |", "| --- " * 4 + "|"]
    for way, rate, found in rows:
        each = ", ".join(f"{miou:.3f}" for miou in found)
        lines.append(f"| {way} | {rate:g} | {np.mean(found):.3f} | {each} |")
    return "\n".join(lines)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="name, directory or address of a preset")
    parser.add_argument("--camvid", metavar="DIR", help="CamVid, with train, trainannot, val, valannot")
    parser.add_argument("--images", help="directory of images, of which a fifth is for evaluation")
    parser.add_argument("--masks", help="directory of masks, with the classes 0, 1, 2, …")
    parser.add_argument("--labels", nargs="+", help="names of the classes, from 0 on")
    parser.add_argument("--limit", type=int, help="number of images for training; default: all")
    parser.add_argument("--side", type=int, default=240, help="longer side of the images, in pixels")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--frozen", type=int, default=15, help="of these, with a frozen backbone")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-3], help="learning rates to try")
    parser.add_argument("--seeds", type=int, default=3, help="how often to train in each way")
    parser.add_argument("--out", type=Path, default=Path("finetuned"), help="directory for the model")
    options = parser.parse_args(arguments)
    if bool(options.camvid) == bool(options.images and options.masks and options.labels):
        parser.error("give either --camvid, or --images, --masks and --labels")
    if not 0 <= options.frozen < options.epochs:
        parser.error(f"--frozen must be from 0 to --epochs - 1. Received: {options.frozen}")
    return options


if __name__ == "__main__":
    main()
