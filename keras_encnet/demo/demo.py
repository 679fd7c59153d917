"""The demo: data, training, evaluation, a saved model and a picture."""

import pathlib
import time

import keras
import numpy as np

from keras_encnet.data import batches
from keras_encnet.data.batching import Batches
from keras_encnet.demo.drawing import scenes
from keras_encnet.demo.pixel_classifier import pixel_classifier_iou
from keras_encnet.inference import Scores, comparison, evaluate
from keras_encnet.models.encnet import EncNet
from keras_encnet.training import PolynomialDecay, train

SCENES, UNSEEN = 800, 60
CROP = (96, 128)
BATCH = 8
EPOCHS = 4
LEARNING_RATE = 2e-2
MEASURED = (
    "With TensorFlow, two cores of an AMD EPYC took 149 seconds limited to AVX2, and 59 with AVX-512. "
    "An estimate for this machine follows."
)
# What follows the training takes about as long as this number of steps.
STEPS_AFTERWARDS = 80


class Estimate(keras.callbacks.Callback):
    """Prints, once the pace of the training is known, how long the rest of the demo will take.

    Args:
        data: the batches of the training.
        steps: number of steps of the complete training.
    """

    def __init__(self, data: Batches, steps: int):
        super().__init__()
        self.data, self.steps = data, steps
        self.done, self.start = 0, 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.done += 1
        # The first steps include compilation.
        if self.done == 5:
            self.start = time.monotonic()
        if self.done == 25:
            pace = (time.monotonic() - self.start) / 20
            left = self.steps - (self.data.step + batch + 1) + STEPS_AFTERWARDS
            print(f"\nAbout {pace * left:.0f} seconds to go at this pace.")


def run(out: str | pathlib.Path, *, seed: int = 0) -> Scores:
    """Draws street scenes, trains a small EncNet on them, evaluates it and saves pictures.

    If it is stopped, the next call resumes the training.

    Args:
        out: directory for the training state, the model, `scenes.png` and `report.txt`.
        seed: seed of the scenes, the batches and the initial weights.

    Returns:
        The scores on scenes that were not used in training.
    """
    out, start = pathlib.Path(out), time.monotonic()
    print(MEASURED)
    print(f"Drawing {SCENES} street scenes for training and {UNSEEN} for evaluation …")
    seen = scenes(SCENES, seed=seed).load()
    unseen = scenes(UNSEEN, seed=seed + 1000).load()
    num_classes = len(seen.labels)
    data = batches(
        seen,
        size=CROP,
        batch_size=BATCH,
        augment=True,
        seed=seed,
        scale=(1.0, 1.0),
        photometric=False,
    )
    steps = EPOCHS * data.steps_per_epoch

    def make_model():
        keras.utils.set_random_seed(seed)
        model = EncNet(
            "resnet18",
            num_classes,
            labels=seen.labels,
            palette=seen.palette,
            width=0.25,
            head_channels=128,
            dropout=0.0,
        )
        rate = PolynomialDecay(LEARNING_RATE, steps=steps, end=0.0, warmup=30)
        optimizer = keras.optimizers.Adam(rate, beta_2=0.99)
        # Otherwise TensorFlow traces the first step twice, which takes seconds.
        optimizer.build(model.trainable_variables)
        model.compile(optimizer)
        return model

    print("Training an EncNet on a ResNet-18 with a quarter of the usual width:")
    model = train(
        make_model,
        data,
        directory=out / "training",
        epochs=EPOCHS,
        settings={"seed": seed, "epochs": EPOCHS},
        every=15,
        callbacks=[Estimate(data, steps)],
    )
    model.save_to_preset(out / "model")

    model = EncNet.from_preset(out / "model")
    result = evaluate(model, unseen)
    baseline = np.nanmean(pixel_classifier_iou(seen[:300], unseen, num_classes))
    rows = [(image, mask, model.segment(image).label_map) for image, mask in unseen[:5]]
    comparison(rows, model.labels, model.palette).save(out / "scenes.png")
    report = (
        f"{result}\n\n"
        f"Mean IoU on {UNSEEN} scenes not used in training: {result.miou:.3f}\n"
        f"Mean IoU of a classifier of the colour and position of single pixels: {baseline:.3f}\n"
    )
    (out / "report.txt").write_text(report, "utf-8")
    print(f"\n{report}\nTook {time.monotonic() - start:.0f} seconds. Pictures: {out / 'scenes.png'}")
    print(f"Use the model: keras-encnet segment PHOTO --model {out / 'model'}")
    return result
