"""The command `train`: from its arguments to a run of `training.train`."""

import csv
import dataclasses
import pathlib
import sys

import keras

from keras_encnet import data, training
from keras_encnet.cli_types import STAGES
from keras_encnet.command_data import training_pairs
from keras_encnet.data.batching import Batches
from keras_encnet.inference import evaluate
from keras_encnet.models.encnet import EncNet
from keras_encnet.training.prediction_pictures import PredictionPictures
from keras_encnet.training.recipes import Recipe, recipe

# Without --recipe: mmsegmentation's for ADE20K, but for data of any size and for one device.
BASE = "ade20k_r50"
OWN = {"resize": None, "evaluation": None, "backbone_weights": None, "batch_size": 8}
OWN_EPOCHS = 40
ADAMW_RATE = 1e-3

# Arguments that are fields of `Recipe`.
FIELDS = (
    "num_classes",
    "backbone",
    "backbone_weights",
    "laterals",
    "dtype",
    "batch_size",
    "size",
    "resize",
    "scale",
    "flip",
    "photometric",
    "epochs",
    "steps",
    "learning_rate",
    "seed",
)
# Other arguments with which a run must be resumed. Data is compared by what it holds.
COMPARED = (
    "preset",
    "width",
    "head_channels",
    "freeze",
    "optimizer",
    "lr_schedule",
    "balance",
    "ema",
    "clip",
)


def train(arguments):
    out = pathlib.Path(arguments.out)
    chosen = chosen_recipe(arguments)
    if not (arguments.dataset or arguments.images):
        arguments.dataset = chosen.dataset
    pairs, validation = training_pairs(arguments)
    if arguments.early_stopping and validation is None:
        raise ValueError("--early-stopping needs images to validate on: --val-split or --val-share.")
    batches = chosen.batches(pairs)
    settings = {name: getattr(arguments, name) for name in COMPARED}
    model = training.train(
        lambda: compiled_model(arguments, chosen, pairs, batches),
        batches,
        directory=out / "training",
        settings={**chosen.settings(), **settings, "labels": pairs.labels},
        patience=arguments.early_stopping,
        announce=print,
        # A log file gets a line for each epoch.
        verbose=1 if sys.stdout.isatty() else 2,
        **_length(arguments, chosen),
        **_validation(arguments, chosen, pairs, validation, out),
    )
    best = out / "training" / "best.keras"
    if best.exists():
        model = keras.saving.load_model(best)
    model.save_to_preset(out / "model")
    _report(model, validation, out, is_best=best.exists())


def chosen_recipe(arguments) -> Recipe:
    """The recipe that the arguments name, with the values that they change.

    Raises:
        ValueError: if there is no such recipe or value, or a value is invalid.
    """
    given = {name: getattr(arguments, name) for name in FIELDS}
    given = {name: value for name, value in given.items() if value is not None}
    given |= dict(arguments.set)
    if arguments.accumulate:
        given["accumulation"] = arguments.accumulate
    if arguments.loss:
        weights = dict(arguments.loss)
        given["loss"] = next(iter(weights)) if [*weights.values()] == [1.0] else weights
    if given.get("backbone_weights") == "none":
        given["backbone_weights"] = None
    if arguments.recipe:
        chosen = recipe(arguments.recipe, **given)
    else:
        length = {} if "steps" in given else {"epochs": OWN_EPOCHS}
        chosen = dataclasses.replace(recipe(BASE, **{**OWN, **length, **given}), name="own", dataset="")
    # The least rate, for a rate that is smaller from the beginning.
    return dataclasses.replace(chosen, end=min(chosen.end, chosen.learning_rate))


def compiled_model(arguments, recipe: Recipe, pairs: data.Pairs, batches: Batches) -> EncNet:
    """The model to start from."""
    if arguments.preset:
        keras.utils.set_random_seed(recipe.seed)
        model = EncNet.from_preset(
            arguments.preset,
            num_classes=recipe.num_classes or len(pairs.labels),
            labels=pairs.labels,
            dtype=recipe.dtype,
        )
    else:
        options = {"width": arguments.width, "head_channels": arguments.head_channels}
        model = recipe.model(pairs, **{name: value for name, value in options.items() if value})
    if arguments.freeze:
        _freeze(model.backbone, arguments.freeze)
    weights = None
    if arguments.balance:
        weights = training.class_weights(pairs, model.num_classes).tolist()
    optimizer = make_optimizer(arguments, recipe, batches)
    return recipe.compile(model, batches, optimizer=optimizer, class_weight=weights)


def make_optimizer(arguments, recipe: Recipe, batches: Batches) -> keras.optimizers.Optimizer:
    """The optimizer with its schedule."""
    options = {}
    if arguments.ema:
        options |= {"use_ema": True, "ema_momentum": arguments.ema}
    if arguments.clip:
        options["global_clipnorm"] = arguments.clip
    trained = arguments.recipe or arguments.preset or recipe.backbone_weights
    if (arguments.optimizer or ("sgd" if trained else "adamw")) == "sgd":
        rate = _rate(arguments, recipe.learning_rate, recipe.updates(batches))
        if rate is not None:
            options["learning_rate"] = rate
        return recipe.optimizer(batches, **options)
    # Keras's own optimizers count batches, of which several may be one update.
    steps = recipe.updates(batches) * recipe.accumulation
    if recipe.accumulation > 1:
        options["gradient_accumulation_steps"] = recipe.accumulation
    initial = arguments.learning_rate or ADAMW_RATE
    rate = _rate(arguments, initial, steps) or training.PolynomialDecay(
        initial, steps=steps, end=0.0, warmup=min(100, steps // 20)
    )
    return keras.optimizers.AdamW(rate, weight_decay=0.01, **options)


def _rate(arguments, initial, steps):
    """A learning rate other than the recipe's polynomial, or `None`."""
    if arguments.lr_schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(initial, steps)
    return initial if arguments.lr_schedule == "constant" else None


def _freeze(backbone, last):
    """Freezes a backbone, or its layers up to a stage; their batch norms keep their statistics."""
    if last == "backbone":
        backbone.trainable = False
        return
    frozen = ("stem", *STAGES[: STAGES.index(last) + 1])
    layers = [layer for layer in backbone.layers if layer.name.startswith(frozen)]
    if not any(layer.name.startswith(last) for layer in layers):
        raise ValueError(
            f"--freeze {last} needs a ResNet of this package. Received: a backbone with the layers "
            f"{', '.join(layer.name for layer in backbone.layers[:3])}, … Take --freeze backbone."
        )
    for layer in layers:
        layer.trainable = False


def _length(arguments, recipe):
    """How long to train, as arguments of `training.train`, which counts batches."""
    if recipe.steps is None:
        return {"epochs": recipe.epochs}
    every = min(arguments.validate_every or max(recipe.steps // 10, 1), recipe.steps)
    batches = recipe.accumulation
    return {"steps": recipe.steps * batches, "steps_per_epoch": every * batches}


def _validation(arguments, recipe, pairs, validation, out):
    """What is done after each epoch, as arguments of `training.train`."""
    every = 1 if recipe.steps else arguments.validate_every or 1
    callbacks, options = [], {"validation_freq": every}
    if validation is not None and (arguments.recipe or arguments.preset):
        # The number that is published, as the model is evaluated.
        callbacks.append(training.ValidationScores(validation, validation_freq=every))
    elif validation is not None:
        size = recipe.batch_size // recipe.accumulation
        options["validation_data"] = data.batches(validation, size=None, batch_size=size)
    callbacks.append(Bar())
    logs = out / "tensorboard" if arguments.tensorboard else None
    if logs:
        callbacks.append(keras.callbacks.TensorBoard(logs))
    if arguments.pictures:
        shown = (pairs if validation is None else validation)[: arguments.pictures]
        callbacks.append(PredictionPictures(shown, out / "pictures", every=every, tensorboard=logs))
    return {**options, "callbacks": callbacks}


class Bar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar with loss and mean IoU alone, which fit into a terminal of 80 columns."""

    shown = ("loss", "miou", "val_miou")

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, self._shown(logs))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, self._shown(logs))

    def _shown(self, logs):
        return {name: logs[name] for name in self.shown if name in (logs or ())}


def _report(model, validation, out, is_best):
    """Prints the scores, and where everything is."""
    print()
    if validation is not None:
        print(evaluate(model, validation), end="\n\n")
    kept = f"best of the epochs, {_best_epoch(out / 'training' / 'history.csv')}" if is_best else "last"
    places = {f"model ({kept})": "model", "curves": "training/curves.png"}
    places |= {"pictures": "pictures", "logs for TensorBoard": "tensorboard"}
    for name, place in places.items():
        if (out / place).exists():
            print(f"{name[0].upper()}{name[1:]}: {out / place}")


def _best_epoch(history):
    with open(history, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val_miou")]
    best = max(rows, key=lambda row: float(row["val_miou"]))
    return f"epoch {best['epoch']} with mIoU {float(best['val_miou']):.3f}"
