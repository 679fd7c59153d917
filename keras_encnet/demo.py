"""The whole job once through: data, training, evaluation, a saved model, a picture."""

import pathlib
import time

import numpy as np

# What two cores train in under three minutes.
SCENES, UNSEEN = 800, 60
CROP = (96, 128)
BATCH = 8
EPOCHS = 7
LEARNING_RATE = 4e-3


def run(out, *, seed=0):
    """Trains a small EncNet on street scenes that it draws, and shows what it has learned.

    Stopped and run again, it goes on where it was.

    Args:
        out: directory for the training's state, the model, `scenes.png` and `report.txt`.
        seed: of the scenes, the batches and the first weights.

    Returns:
        `inference.Scores` on scenes that the network has not seen.
    """
    import keras

    import keras_encnet
    from keras_encnet.data.pixel_baseline import pixel_baseline
    from keras_encnet.inference import comparison, evaluate
    from keras_encnet.training import PolynomialDecay, train

    out, start = pathlib.Path(out), time.monotonic()
    print(f"Drawing {SCENES} street scenes to learn from and {UNSEEN} that stay unseen …")
    seen = keras_encnet.data.scenes(SCENES, seed=seed).load()
    unseen = keras_encnet.data.scenes(UNSEEN, seed=seed + 1000).load()
    num_classes = len(seen.labels)
    data = keras_encnet.data.batches(
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
        model = keras_encnet.EncNet(
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

    print("Training a ResNet-18 EncNet of a quarter of the usual width:")
    model = train(
        make_model,
        data,
        directory=out / "training",
        epochs=EPOCHS,
        settings={"seed": seed, "epochs": EPOCHS},
        every=15,
    )
    model.save_to_preset(out / "model")

    model = keras_encnet.EncNet.from_preset(out / "model")
    result = evaluate(model, unseen)
    baseline = np.nanmean(pixel_baseline(seen[:300], unseen, num_classes))
    rows = [(image, mask, model.segment(image).label_map) for image, mask in unseen[:5]]
    comparison(rows, model.labels, model.palette).save(out / "scenes.png")
    report = (
        f"{result}\n\n"
        f"mean IoU on {UNSEEN} scenes it has not seen: {result.miou:.3f}\n"
        f"a classifier that sees a pixel's colour and place alone: {baseline:.3f}\n"
    )
    (out / "report.txt").write_text(report, "utf-8")
    print(f"\n{report}\n{time.monotonic() - start:.0f} seconds. Look at {out / 'scenes.png'};")
    print(f"the model is in {out / 'model'}: keras-encnet segment PHOTO --model {out / 'model'}")
    return result
