"""The published training recipes by name."""

import dataclasses
import os
from collections.abc import Mapping

import keras

from keras_encnet.data.batching import Batches, batches
from keras_encnet.data.conventions import check_integer, ignore_index_for
from keras_encnet.data.datasets import ROWS, open_dataset
from keras_encnet.data.pairs import Pairs
from keras_encnet.training.optimizers import HEADS, SGD
from keras_encnet.training.run import train
from keras_encnet.training.schedules import PolynomialDecay
from keras_encnet.zoo.table import find, suggestion

# Fields of `Recipe` that are arguments of other functions.
NETWORK = (
    "backbone",
    "backbone_weights",
    "laterals",
    "align_corners",
    "dropout",
    "evaluation",
    "dtype",
)
AUGMENTATION = (
    "size",
    "resize",
    "scale",
    "antialias",
    "max_class_share",
    "flip",
    "photometric",
    "blur",
    "padding",
    "seed",
)
SCHEDULE = ("end", "power", "warmup", "inclusive")
LOSSES = ("loss", "average", "aux_weight", "se_weight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a published model was trained: data set, augmentation, network, optimizer and losses.

    `recipe` makes one by name. Training takes three lines, here for ADE20K on one device, which sees
    the batch of 16 images as four batches of 4:

        recipe = keras_encnet.training.recipe("ade20k_r50_512x512_80k", accumulation=4)
        data = recipe.batches(recipe.pairs("ADEChallengeData2016"))
        model = recipe.train(data, directory="runs/ade20k_r50")

    The parts can be used separately: `recipe.model(pairs)` and `recipe.compile(model, data)` give a
    model for `model.fit` or `training.train`. `pairs` may also be images of one's own: the model gets
    their classes.

    The authors trained on four GPUs, with batch norms over all images of a batch. With accumulation a
    batch norm sees the images of one small batch.

    Attributes:
        name: the published model.
        dataset: name of its data set, a key of `keras_encnet.data.datasets.DATASETS`.
        backbone, backbone_weights, laterals, align_corners, dropout, evaluation, dtype: arguments of
            `EncNet`.
        num_classes: number of classes; `None` for as many as `pairs.labels`.
        size, resize, scale, antialias, max_class_share, flip, photometric, blur, padding, seed:
            arguments of `data.batches`. The weights of a new model follow from `seed` as well.
        batch_size: number of images for each update of the weights. It does not change the learning
            rate, which may have to be smaller for a smaller batch.
        accumulation: number of batches, of `batch_size / accumulation` images each, whose gradients
            are averaged for an update.
        learning_rate, end, power, inclusive, warmup: arguments of `PolynomialDecay`.
        momentum, weight_decay: arguments of `SGD`.
        head_factor: factor on the learning rate of all layers behind the backbone.
        loss, average, aux_weight, se_weight: arguments of `EncNet.compile`.
        steps, epochs: number of updates of the weights, or of epochs; one of them is `None`.

    Raises:
        ValueError: if `batch_size`, `accumulation`, `steps` or `epochs` is invalid. The functions that
            get the other values check them.
    """

    name: str
    dataset: str

    backbone: str | keras.Model
    backbone_weights: str | None
    laterals: bool
    align_corners: bool
    dropout: float
    evaluation: dict | None
    dtype: str | keras.DTypePolicy | None = None
    num_classes: int | None = None

    size: tuple[int, int]
    resize: tuple[int, int] | Mapping | None
    scale: tuple[float, float]
    antialias: bool
    max_class_share: float
    flip: float
    photometric: bool | Mapping
    blur: float
    padding: tuple[int, int, int]
    batch_size: int
    accumulation: int = 1
    seed: int = 0

    learning_rate: float
    end: float
    power: float
    inclusive: bool
    warmup: int = 0
    momentum: float
    weight_decay: float
    head_factor: float

    loss: str | Mapping | None = None
    average: str
    aux_weight: float
    se_weight: float

    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self):
        check_integer("batch_size", self.batch_size)
        check_integer("accumulation", self.accumulation)
        if self.batch_size % self.accumulation:
            raise ValueError(
                "`accumulation` must divide `batch_size`. Received: "
                f"accumulation={self.accumulation}, batch_size={self.batch_size}"
            )
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                "One of `steps` and `epochs` must be given, and the other be None. Received: "
                f"steps={self.steps!r}, epochs={self.epochs!r}"
            )
        name = "epochs" if self.steps is None else "steps"
        check_integer(name, getattr(self, name))

    def pairs(self, root: str | os.PathLike, split: str = "train") -> Pairs:
        """The images and masks of the recipe's data set.

        Args:
            root: its directory, see the function of `keras_encnet.data` for the data set.
            split: `"train"` or `"val"`.

        Raises:
            As for that function.
        """
        return open_dataset(self.dataset, root, split)

    def batches(self, pairs: Pairs, **options) -> Batches:
        """Augmented batches of `batch_size / accumulation` images each, for `train` or `fit`.

        Args:
            pairs: as for `data.batches`.
            **options: arguments of `data.batches` that take the place of the recipe's.
        """
        chosen = {"batch_size": self.batch_size // self.accumulation, **self._values(AUGMENTATION)}
        return batches(pairs, augment=True, **{**chosen, **options})

    def model(self, pairs: Pairs, **options) -> keras.Model:
        """A new `EncNet` for the classes of `pairs`, not compiled. Sets Keras's random seed.

        Args:
            pairs: images and masks with class names; their colours become the model's.
            **options: arguments of `EncNet` that take the place of the recipe's.

        Raises:
            ValueError: if the number of classes is unknown; also as for `EncNet`.
        """
        num_classes = self.num_classes or len(pairs.labels or ())
        if not num_classes:
            raise ValueError(
                "`num_classes` must be given if the pairs have no class names. Received: None. Pass "
                f"it, training.recipe({self.name!r}, num_classes=3) for instance."
            )
        keras.utils.set_random_seed(self.seed)
        # By the name under which Keras saves it: `models` imports `training`.
        encnet = keras.saving.get_registered_object("keras_encnet>EncNet")
        chosen = {
            "num_classes": num_classes,
            "labels": pairs.labels,
            "palette": pairs.palette,
            "ignore_index": ignore_index_for(num_classes),
            **self._values(NETWORK),
        }
        return encnet(**{**chosen, **options})

    def updates(self, data: Batches) -> int:
        """The number of updates of the weights in all."""
        return self.steps or self.epochs * data.steps_per_epoch // self.accumulation

    def optimizer(self, data: Batches, **options) -> SGD:
        """The recipe's optimizer with its schedule.

        Args:
            data: what a model will be trained on. Its length matters if the recipe counts epochs.
            **options: arguments of `SGD` that take the place of the recipe's, or are added.
        """
        updates = self.steps or self.epochs * data.steps_per_epoch // self.accumulation
        chosen = {
            "learning_rate": PolynomialDecay(
                self.learning_rate, steps=updates, **self._values(SCHEDULE)
            ),
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "learning_rate_factors": None if self.head_factor == 1 else {HEADS: self.head_factor},
            "gradient_accumulation_steps": None if self.accumulation == 1 else self.accumulation,
        }
        return SGD(**{**chosen, **options})

    def compile(self, model: keras.Model, data: Batches, **options) -> keras.Model:
        """Compiles a model with the recipe's optimizer and losses, and returns it.

        Args:
            model: an `EncNet`.
            data: as for `optimizer`.
            **options: arguments of `EncNet.compile` that take the place of the recipe's, or are added.
        """
        chosen = self._values(LOSSES)
        if "optimizer" not in options:
            chosen["optimizer"] = self.optimizer(data)
        model.compile(**{**chosen, **options})
        return model

    def train(self, data: Batches, *, directory: str | os.PathLike, **options) -> keras.Model:
        """Trains a new model, or resumes the run that `directory` holds; see `training.train`.

        Args:
            data: the result of `batches`.
            directory: where the state of the training is kept.
            **options: arguments of `training.train`, such as `validation_data` and `callbacks`.

        Returns:
            The trained model.

        Raises:
            As for `training.train`.
        """
        length = {"epochs": self.epochs}
        if self.steps is not None:
            length = {"steps": self.steps * self.accumulation}
        return train(
            lambda: self.compile(self.model(data.pairs), data),
            data,
            directory=directory,
            settings=self.settings(),
            **{**length, **options},
        )

    def settings(self) -> dict:
        """The values that a resumed run must share, for `training.train`; they fit into JSON.

        `steps` and `epochs` are left out, because a run may be given more of them.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["steps"], values["epochs"]
        # A backbone or a policy that is an object.
        return {"recipe": values.pop("name")} | {
            name: getattr(value, "name", value) for name, value in values.items()
        }

    def _values(self, names):
        return {name: getattr(self, name) for name in names}


def recipe(name: str, **overrides) -> Recipe:
    """The recipe of a published model, with other values where some are given.

    Args:
        name: a name of `list_presets()`, short names included.
        **overrides: fields of `Recipe`. `steps` takes the place of `epochs`, and the reverse.

    Raises:
        ValueError: if there is no such model or field, or a value is invalid.

    Source: mmsegmentation 1.2.2, `configs/encnet`; PyTorch-Encoding at its version 0.5.0, which first
    listed the releases, `experiments/segmentation`.

    >>> ade20k = recipe("ade20k_r50", batch_size=8, learning_rate=0.005)
    >>> ade20k.name, ade20k.size, ade20k.steps, ade20k.learning_rate
    ('ade20k_r50_512x512_160k', (512, 512), 160000, 0.005)
    >>> recipe("pascal_context_r50s").resize, recipe("pascal_context_r50s").epochs
    ({'short': 520}, 80)
    """
    preset = find(name)
    if preset is None:
        raise ValueError(
            f"`name` must be the name of a published model. Received: {name!r}.{suggestion(str(name))} "
            "`keras_encnet.list_presets()` lists them all."
        )
    known = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(
            f"The values of a recipe that can be given are {', '.join(known)}. Received: "
            f"{', '.join(unknown)}"
        )
    row = {
        key: tuple(value) if isinstance(value, list) else value for key, value in preset.recipe.items()
    }
    if {"steps", "epochs"} & overrides.keys():
        row |= {"steps": None, "epochs": None}
    row |= {
        "dataset": next(key for key, dataset in ROWS.items() if dataset == preset.dataset),
        "backbone": preset.backbone,
        "laterals": preset.laterals,
        "align_corners": preset.align_corners,
        "evaluation": preset.evaluation,
    }
    return Recipe(name=preset.name, **{**row, **overrides})
