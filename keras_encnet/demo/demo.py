"""The demo: data, training, evaluation, a saved model and a picture."""

import pathlib
import time

import keras
import numpy as np

from keras_encnet.data import batches
from keras_encnet.demo.drawing import scenes
from keras_encnet.demo.pixel_classifier import pixel_classifier_iou
from keras_encnet.inference import Scores, comparison, evaluate
from keras_encnet.models.encnet import EncNet
from keras_encnet.training import PolynomialDecay, train

# Two CPU cores train this in under three minutes.
SCENES, UNSEEN = 800, 60
CROP = (96, 128)
BATCH = 8
EPOCHS = 7
LEARNING_RATE = 4e-3


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

    def make_model():
        keras.utils.set_random_seed(seed)
        model = EncNet(
            "resnet18",
            num_classes,
            labels=seen.labels,
            palette=seen.palette,
            width=0.25,
            head_channels=128,
        )
        rate = PolynomialDecay(LEARNING_RATE, steps=EPOCHS * data.steps_per_epoch, end=0.0, warmup=15)
        model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-4))
        return model

    print("Training an EncNet on a ResNet-18 with a quarter of the usual width:")
    model = train(
        make_model,
        data,
        directory=out / "training",
        epochs=EPOCHS,
        settings={"seed": seed, "epochs": EPOCHS},
        every=15,
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
