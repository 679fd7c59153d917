"""`evaluate`: exact, in bounded memory, and the same after an interruption."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
from fake_net import FakeNet, image
from PIL import Image

from keras_encnet.data import Pairs, folder
from keras_encnet.inference import evaluate, segment
from keras_encnet.inference.records import FOLDER


class Model(FakeNet):
    """A network with what `evaluate` needs of an `EncNet`."""

    name, ignore_index = "fake", 255
    dtype_policy = types.SimpleNamespace(name="float32")

    def __init__(self, *args, weights=(1.0,), config=None, **options):
        super().__init__(*args, **options)
        self.weights = [np.array(weights, "float32")]
        self.config = config or {}

    def get_config(self):
        return self.config


class Named(Pairs):
    def name(self, i):
        return f"city/{i}"


def examples(count=6):
    """Images of two sizes; the masks are the model's label maps with a few other pixels."""
    images = [image(40 + 9 * (i % 2), 52)[:, :: (-1) ** i] for i in range(count)]
    masks = [result.label_map.copy() for result in segment(FakeNet(), images)]
    for i, mask in enumerate(masks):
        mask[i, :7] = (mask[i, :7] + 1) % 5
        mask[-1] = 255
    return Named(list(zip(images, masks, strict=True)))


class Stop(Exception):
    pass


class Stopping(Model):
    """Fails when it is shown image number `at`."""

    def __init__(self, at, **options):
        super().__init__(**options)
        self.at = at

    def coarse_logits(self, images):
        if len(self.seen) == self.at:
            raise Stop
        return super().coarse_logits(images)


def same(a, b):
    return a.confusion.tolist() == b.confusion.tolist() and a.num_images == b.num_images


def test_the_number_of_workers_and_the_batch_change_nothing():
    expected = evaluate(Model(), examples(), workers=1)
    for options in ({"workers": 4}, {"batch_size": 4}, {"workers": 2, "batch_size": 2}):
        assert same(evaluate(Model(), examples(), **options), expected)


def test_the_first_pairs_are_used_up_to_the_limit():
    for pairs in (examples(), iter(examples()), list(examples())):
        model = Model()
        scores = evaluate(model, pairs, limit=2)
        assert scores.num_images == len(model.seen) == 2
        assert same(scores, evaluate(Model(), examples()[:2]))


def test_the_network_runs_once_at_a_time_and_few_images_are_read_ahead():
    inside, reads = threading.Lock(), []

    class Counted(Named):
        def read(self, i):
            reads.append(i)
            return super().read(i)

    class Alone(Model):
        def coarse_logits(self, images):
            assert inside.acquire(blocking=False)
            assert len(reads) <= len(self.seen) + 2
            results = super().coarse_logits(images)
            inside.release()
            return results

    evaluate(Alone(), Counted(list(examples(20))), workers=2)
    assert sorted(reads) == list(range(20))


@pytest.mark.parametrize("directory", ["report", "save_predictions"])
def test_a_stopped_evaluation_resumes_with_the_same_numbers(tmp_path, directory):
    expected = evaluate(Model(), examples(), ratios=(1, 1.5), flip=True)
    options = {directory: tmp_path / "out", "ratios": (1, 1.5), "flip": True}
    with pytest.raises(Stop):
        evaluate(Stopping(at=3 * 4), examples(), workers=1, **options)
    # The pictures of the report are made anew.
    pictures = 6 * 4 if directory == "report" else 0
    for missing in (3, 0):
        model = Model()
        assert same(evaluate(model, examples(), **options), expected)
        assert len(model.seen) == missing * 4 + pictures


KILLED = """
import os, signal, sys
from PIL import Image
import test_evaluation as tests

calls, save = [], Image.Image.save

def save_or_die(picture, path, **options):
    if len(calls) == {at}:
        path.write_bytes(b"half of a")
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(path)
    save(picture, path, **options)

Image.Image.save = save_or_die
tests.evaluate(tests.Model(), tests.examples(), save_predictions={directory!r}, workers=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 4])
def test_a_kill_loses_at_most_the_images_at_work(tmp_path, at):
    code = KILLED.format(at=at, directory=str(tmp_path))
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), *filter(None, sys.path)])
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("city/.*-unfinished-*"))
    model = Model()
    scores = evaluate(model, examples(), save_predictions=tmp_path)
    assert same(scores, evaluate(Model(), examples())) and len(model.seen) == 6 - at
    assert sorted(file.name for file in (tmp_path / "city").iterdir()) == [f"{i}.png" for i in range(6)]


def test_a_line_that_a_kill_has_cut_is_done_again(tmp_path):
    options = {"save_predictions": tmp_path / "out"}
    expected = evaluate(Model(), examples(), **options)
    journal = tmp_path / "out" / FOLDER / "records.jsonl"
    for cut, missing in ((1, 0), (2, 1), (30, 1)):
        journal.write_bytes(journal.read_bytes()[:-cut])
        model = Model()
        assert same(evaluate(model, examples(), **options), expected)
        assert len(model.seen) == missing
        assert len(journal.read_text().splitlines()) == 6


def test_presence_and_sizes_are_kept_to_the_last_digit(tmp_path):
    def records():
        evaluate(Model(), examples(), save_predictions=tmp_path)
        return [json.loads(line) for line in (tmp_path / FOLDER / "records.jsonl").open()]

    first = sorted(records(), key=lambda record: record["index"])
    for record, result in zip(first, segment(Model(), [i for i, _ in examples()]), strict=True):
        assert np.float32(record["presence"]).tolist() == result.presence.tolist()
        assert tuple(record["size"]) == result.label_map.shape
    assert sorted(records(), key=lambda record: record["index"]) == first


def test_more_images_and_fewer_are_no_other_evaluation(tmp_path):
    evaluate(Model(), examples(), save_predictions=tmp_path, limit=4)
    model = Model()
    scores = evaluate(model, examples(), save_predictions=tmp_path)
    assert len(model.seen) == 2 and same(scores, evaluate(Model(), examples()))
    fewer = evaluate(model, examples(), save_predictions=tmp_path, limit=3)
    assert len(model.seen) == 2 and same(fewer, evaluate(Model(), examples()[:3]))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"flip": True}, r"settings \(option flip: False then, True now\)"),
        ({"model": Model(weights=(1.0, 2.0))}, "checksum of the weights"),
        ({"model": Model(align_corners=True)}, "align_corners: False then, True now"),
        ({"model": Model(evaluation={"resize": [80, 80]})}, "evaluation: None then"),
        ({"pairs": examples(5)}, "number of pairs: 6 then, 5 now"),
        ({"pairs": examples().subset([1, 0, 2, 3, 4, 5])}, "checksum of names"),
        ({"model": Model(config={"mean": [1.0, 2.0, 3.0]})}, "checksum of the network"),
        ({"prediction_format": "rle"}, "prediction format: 'png' then, 'rle' now"),
    ],
)
def test_another_evaluation_does_not_mix_with_the_first(tmp_path, change, words):
    evaluate(Model(), examples(), save_predictions=tmp_path, limit=1)
    given = {"model": Model(), "pairs": examples(), "save_predictions": tmp_path, **change}
    with pytest.raises(ValueError, match=f"{tmp_path} holds an evaluation with other.*{words}"):
        evaluate(given.pop("model"), given.pop("pairs"), **given)


def test_names_of_layers_classes_and_the_model_do_not_change_the_network(tmp_path):
    def named(number):
        layer = {"class_name": "Conv2D", "config": {"name": f"conv2d_{number}", "filters": 8}}
        backbone = {"layers": [layer], "output_layers": [[f"conv2d_{number}", 0, 0]]}
        return Model(config={"name": f"net {number}", "labels": [str(number)], "backbone": backbone})

    evaluate(named(1), examples(), save_predictions=tmp_path)
    model = named(2)
    evaluate(model, examples(), save_predictions=tmp_path)
    assert not model.seen


@pytest.mark.parametrize("directory", ["report", "save_predictions"])
def test_images_and_masks_that_have_changed_are_done_again(tmp_path, directory):
    pairs = [list(pair) for pair in [*examples()] * 10]
    options = {directory: tmp_path}
    evaluate(Model(), Named(pairs), **options)
    pairs[7][0] = pairs[7][0][::-1].copy()
    pairs[31][1] = np.zeros_like(pairs[31][1])
    changed = Model()
    scores = evaluate(changed, Named(pairs), **options)
    assert same(scores, evaluate(Model(), Named(pairs)))
    again = Model()
    assert same(evaluate(again, Named(pairs), **options), scores)
    # The pictures of the report are made anew.
    assert len(changed.seen) - len(again.seen) == 2


def files_of(directory, pairs):
    for kind, number in (("images", 0), ("masks", 1)):
        (directory / kind).mkdir()
        for i, pair in enumerate(pairs):
            Image.fromarray(pair[number]).save(directory / kind / f"{i}.png")
    return directory / "images", directory / "masks"


def test_files_that_have_changed_are_done_again_and_others_are_not_read(tmp_path):
    images, masks = files_of(tmp_path, examples())
    out = tmp_path / "out"
    evaluate(Model(), folder(images, masks), save_predictions=out)
    time = (images / "2.png").stat().st_mtime_ns
    Image.open(images / "3.png").transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(images / "3.png")
    os.utime(images / "3.png", ns=(time, time + 1))
    pairs = folder(images, masks)
    read, image_of = [], pairs.image
    pairs.image = lambda i: read.append(i) or image_of(i)
    model = Model()
    scores = evaluate(model, pairs, save_predictions=out)
    assert len(model.seen) == 1 and read == [3]
    assert same(scores, evaluate(Model(), folder(images, masks)))
    # The same files, read otherwise.
    renamed = folder(images, masks, label_map={1: 2, 2: 1})
    scores = evaluate(Model(), renamed, save_predictions=out)
    assert same(scores, evaluate(Model(), renamed))


def test_a_report_and_predictions_may_share_a_directory_and_come_one_after_the_other(tmp_path):
    evaluate(Model(), examples(), report=tmp_path)
    evaluate(Model(), examples(), report=tmp_path, save_predictions=tmp_path)
    assert (tmp_path / "city" / "5.png").exists()
    evaluate(Model(), examples(), report=tmp_path)
    with pytest.raises(ValueError, match="prediction format: 'png' then, 'rle' now"):
        evaluate(Model(), examples(), save_predictions=tmp_path, prediction_format="rle")


def test_another_version_is_worth_a_warning(tmp_path):
    evaluate(Model(), examples(), save_predictions=tmp_path, limit=1)
    settings = tmp_path / FOLDER / "settings.json"
    settings.write_text(settings.read_text().replace('"version of Keras": "', '"version of Keras": "0'))
    with pytest.warns(UserWarning, match="version of Keras: '0.*Its results may differ slightly"):
        evaluate(Model(), examples(), save_predictions=tmp_path)


def test_without_a_record_another_evaluation_may_begin(tmp_path):
    with pytest.raises(Stop):
        evaluate(Stopping(at=0), examples(), report=tmp_path)
    evaluate(Model(), examples(), report=tmp_path, flip=True)
    assert (tmp_path / "index.html").exists()


def test_one_evaluation_at_a_time_uses_a_directory(tmp_path):
    class Both(Model):
        def coarse_logits(self, images):
            with pytest.raises(OSError, match="in use by another evaluation"):
                evaluate(Model(), examples(), report=tmp_path)
            return super().coarse_logits(images)

    evaluate(Both(), examples(), report=tmp_path, limit=1)


def test_the_report_has_the_scores_of_the_set(tmp_path):
    scores = evaluate(Model(), examples(), report=tmp_path, save_predictions=tmp_path / "labels")
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["miou"] == scores.miou and written["confusion"] == scores.confusion.tolist()
    assert len((tmp_path / "per_image.csv").read_text().splitlines()) == 1 + 6
    assert (tmp_path / "labels" / "city" / "5.png").exists()


@pytest.mark.parametrize(
    "how, words",
    [
        ({"ratios": 1}, {"resize": [80, 80], "ratios": [1.0]}),
        ({"ratios": (1, 1.5), "resize": None}, {"resize": None, "ratios": [1.0, 1.5]}),
        # Two thirds of 48 are 32, of 40 are 26.7.
        ({"window": (48, 40)}, {"window": [48, 40], "stride": [32, 27]}),
        ({"limit": 2}, {"data": "2 images with masks, the first of 3"}),
        ({"limit": 9}, {"data": "3 images with masks"}),
    ],
)
def test_the_report_tells_how_the_images_were_seen(tmp_path, how, words):
    evaluate(Model(evaluation={"resize": [80, 80]}), examples(3), report=tmp_path, **how)
    written = json.loads((tmp_path / "scores.json").read_text())["how"]
    assert {name: written[name] for name in words} == words


def test_errors_of_an_image_name_it_and_what_was_done_stays(tmp_path):
    pairs = [list(pair) for pair in examples()]
    pairs[4][1] = pairs[4][1][:-1]
    with pytest.raises(ValueError, match="same shape.*pair 4"):
        evaluate(Model(), Named(pairs), save_predictions=tmp_path, workers=1)
    written = {path.name for path in (tmp_path / "city").iterdir()}
    assert written >= {f"{i}.png" for i in range(4)} and "4.png" not in written
    pairs[4] = (image(20, 50), np.zeros((20, 50), "uint8"))
    for size, where in ((1, "In pair 4"), (3, "In one of the 3 images from pair 3 to pair 5")):
        with pytest.raises(ValueError, match=f"32 pixels or more.*{where}"):
            evaluate(Model(), Named(pairs), batch_size=size)


def test_a_progress_bar_shows_the_mean_iou_so_far(capsys):
    scores = evaluate(Model(), examples(), verbose=1)
    printed = capsys.readouterr().out
    assert "6/6" in printed and f"miou: {scores.miou:.4f}" in printed
    assert printed.count("miou") >= 2 and printed.endswith("\n")
    evaluate(Model(), iter(examples()), verbose=1)
    assert f"miou: {scores.miou:.4f}" in capsys.readouterr().out
    for verbose in ({"verbose": 0}, {}):
        evaluate(Model(), examples(), **verbose)
        assert capsys.readouterr() == ("", "")


class NoMasks(Named):
    has_masks = False

    def read(self, i):
        return super().read(i)[0], None


def test_images_without_masks_are_predicted_but_not_scored(tmp_path):
    pairs = NoMasks(list(examples()))
    assert evaluate(Model(), pairs, save_predictions=tmp_path) is None
    assert len(list((tmp_path / "city").glob("*.png"))) == 6
    for options in ({}, {"report": tmp_path / "report"}):
        with pytest.raises(ValueError, match="`pairs` must have masks.*without masks.*`save_pred"):
            evaluate(Model(), pairs, **options)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"limit": 0}, "`limit` must be a positive integer. Received: 0"),
        ({"workers": 1.5}, "`workers` must be a positive integer. Received: 1.5"),
        ({"verbose": "yes"}, "`verbose` must be 0, 1, 2 or 'auto'. Received: 'yes'"),
        ({"prediction_format": "jpg"}, "`prediction_format` must be one of png, .*Received: 'jpg'"),
        ({"prediction_format": "ade20k"}, "a model of the 150 classes.*Received: a model of 5"),
        ({"ratios": 0}, "ratios"),
        ({"confidence": True}, "`confidence` has no place in the scores.*Received: confidence=True"),
        (
            {"prediction_format": "foo", "save_predictions": None},
            "`prediction_format` needs `save_predictions`.*Received: prediction_format='foo'",
        ),
    ],
)
def test_invalid_arguments_are_named_before_anything_is_written(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        evaluate(Model(), examples(), **{"save_predictions": tmp_path / "out", **options})
    assert not list(tmp_path.iterdir())


def test_the_classes_of_the_data_must_be_those_of_the_model():
    model, names = Model(), ("sky", "road", "car", "tree", "kerb")
    model.labels = names
    own, other = (Pairs(list(examples()), labels=labels) for labels in (names, names[::-1]))
    with pytest.raises(
        ValueError, match="data must.*Received: label 0 is 'kerb' in the data and 'sky'"
    ):
        evaluate(model, other)
    with pytest.raises(ValueError, match="Received: 2 class names in the data, and a model of 5"):
        evaluate(Model(), Pairs(list(examples()), labels=names[:2]))
    # Names that only one of both has need not fit.
    assert evaluate(model, own).labels == evaluate(model, examples()).labels == names
    evaluate(Model(), other)


def test_directories_need_pairs_that_can_be_read_again(tmp_path):
    with pytest.raises(ValueError, match="need `Pairs`.*Received: generator. Pass list"):
        evaluate(Model(), (pair for pair in examples()), report=tmp_path)
    with pytest.raises(ValueError, match="`pairs` must have one pair or more. Received: none"):
        evaluate(Model(), [])


def test_a_path_is_no_model():
    with pytest.raises(ValueError, match="must be an EncNet. Received: 'a'. Load it: EncNet.from"):
        evaluate("a", examples())


def test_a_video_is_no_image():
    with pytest.raises(ValueError, match="must be a photograph. Received: 'clip.mp4', a video"):
        segment(Model(), "clip.mp4")
