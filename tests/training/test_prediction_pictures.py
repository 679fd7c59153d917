"""Pictures of predictions: as files, in TensorBoard, in notebooks and on Weights & Biases."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from keras_encnet import data
from keras_encnet.data.conventions import class_palette
from keras_encnet.training.prediction_pictures import PredictionPictures
from training.tiny import tiny

RNG = np.random.default_rng(0)
PAIRS = data.Pairs(
    [
        (
            RNG.integers(0, 256, (45, 60, 3), dtype="uint8"),
            RNG.choice([0, 1, 2, 255], (45, 60)).astype("uint8"),
        )
        for _ in range(3)
    ]
)


def fitted(callback, epochs=4):
    model = tiny()
    model.compile("adam", run_eagerly=True)
    batches = data.batches(PAIRS, size=(32, 32), batch_size=3, augment=True, seed=0)
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[callback])
    return model


def test_files_show_what_the_model_predicts(tmp_path):
    model = fitted(PredictionPictures(PAIRS[:2], tmp_path / "pictures", every=2))
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.name for file in files] == ["epoch-0002.png", "epoch-0004.png"]
    picture = np.array(Image.open(files[-1]))
    # Three columns of 360 pixels, with gaps of 13 and a heading of 42: the centre of each pixel.
    y, x = 42 + np.arange(45) * 6 + 3, np.arange(60) * 6 + 3
    image, truth, prediction = (picture[y][:, 13 + k * 373 + x] for k in range(3))
    label_map = model.segment(PAIRS[0][0]).label_map
    palette = class_palette(3, None)  # the model has no colours of its own
    np.testing.assert_array_equal(prediction, palette[label_map])
    colours = np.concatenate([palette, np.full((253, 3), 255, "uint8")])
    np.testing.assert_array_equal(truth, colours[PAIRS[0][1]])
    assert image.std() > 10


def test_the_legend_has_the_classes_that_occur():
    callback = PredictionPictures([(PAIRS[0][0], np.ones((45, 60), "uint8"))])
    model = tiny(palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]])
    callback.set_model(model)
    predicted = set(np.unique(model.segment(PAIRS[0][0]).label_map)) | {1}
    legend = np.array(callback.picture())[42 + 270 :].reshape(-1, 3).tolist()
    for i, colour in enumerate(model.palette.tolist()):
        assert (colour in legend) == (i in predicted)


def test_images_alone_have_no_truth():
    callback = PredictionPictures(NoMasks([(PAIRS[0][0], None)]))
    callback.set_model(tiny())
    assert callback.picture().width == 2 * 373 + 13


class NoMasks(data.Pairs):
    has_masks = False


def test_tensorboard_gets_the_pictures(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fitted(PredictionPictures(PAIRS[:1], tensorboard=tmp_path), epochs=2)
    accumulator = accumulators.EventAccumulator(str(tmp_path / "predictions"))
    accumulator.Reload()
    events = accumulator.Images("predictions")
    assert [event.step for event in events] == [0, 1]
    assert events[0].encoded_image_string.startswith(b"\x89PNG") and events[0].width == 1132


def test_tensorboard_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        PredictionPictures(PAIRS[:1], tensorboard=tmp_path)


def test_a_notebook_shows_the_latest_picture(monkeypatch):
    shown = []

    def display(picture, display_id):
        shown.append(picture)
        return types.SimpleNamespace(update=lambda picture: shown.append(("in its place", picture)))

    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    module = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=module))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    fitted(PredictionPictures(PAIRS[:1]), epochs=2)
    first, (where, second) = shown
    assert isinstance(first, Image.Image) and where == "in its place" and second.size == first.size


@pytest.mark.parametrize("active", [True, False])
def test_an_active_run_of_weights_and_biases_gets_the_pictures(monkeypatch, active):
    logged = []
    wandb = types.SimpleNamespace(run=active or None, Image=lambda picture: picture, log=logged.append)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    fitted(PredictionPictures(PAIRS[:1]), epochs=1)
    assert [(entry["predictions"].width, entry["epoch"]) for entry in logged] == [(1132, 1)] * active


@pytest.mark.parametrize(
    "pairs, options, words",
    [
        ([], {}, r"1 to 16 pairs. Received: 0"),
        ([PAIRS[0]] * 17, {}, r"1 to 16 pairs. Received: 17. Pass pairs\[:4\]"),
        (PAIRS, {"every": 0}, "`every` must be a positive integer. Received: 0. It is a number of ep"),
    ],
)
def test_what_cannot_be_shown_is_refused(pairs, options, words):
    with pytest.raises(ValueError, match=words):
        PredictionPictures(pairs, **options)


def test_options_are_checked_before_training():

    callback = PredictionPictures(PAIRS, ratios=())
    callback.set_model(tiny())
    with pytest.raises(ValueError, match="ratios"):
        callback.on_train_begin()
