"""The command line, from files to files."""

import inspect
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from golden.files import tiny_state, write_safetensors
from keras_encnet import EncNet, __version__, cli, commands
from keras_encnet.cli import main
from keras_encnet.cli_arguments import COMMANDS, make_parser
from keras_encnet.cli_options import PROTOCOLS
from keras_encnet.cli_types import DATASETS, LOSSES, MIN_SIDE, STAGES
from keras_encnet.data import datasets
from keras_encnet.data.advice import MaskError, is_outside, readings
from keras_encnet.data.conventions import MIN_SIZE
from keras_encnet.demo import scenes
from keras_encnet.export.export import export_model
from keras_encnet.export.formats import FORMATS
from keras_encnet.inference import geometry, video
from keras_encnet.inference.records import open_journal, record_of
from keras_encnet.training.losses import LOSSES as LOSS_TABLE


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Six small scenes as folders of images and masks."""
    here = tmp_path_factory.mktemp("scenes")
    for name in ("images", "masks"):
        (here / name).mkdir()
    for i, (image, mask) in enumerate(scenes(6, size=(64, 80))):
        Image.fromarray(image).save(here / "images" / f"{i}.png")
        Image.fromarray(mask).save(here / "masks" / f"{i}.png")
    return here


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The directory of a small model that was not trained."""
    directory = tmp_path_factory.mktemp("preset") / "model"
    labels = scenes(1).labels
    EncNet("resnet18", len(labels), labels=labels, width=0.125, head_channels=8).save_to_preset(
        directory
    )
    return directory


def usage_error(command, capsys):
    """The message about wrong arguments, after the usage."""
    with pytest.raises(SystemExit) as exit:
        main(command.split() if isinstance(command, str) else command)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: keras-encnet ")
    return error[error.index("error: ") :]


def train(files, out, *more):
    labels = ",".join(scenes(1).labels)
    return main(
        f"train --images {files}/images --masks {files}/masks --labels {labels} --out {out} "
        f"--backbone resnet18 --width 0.125 --head-channels 8 --size 48 64 --batch-size 3 "
        f"--epochs 2 {' '.join(more)}".split()
    )


def test_train_segment_evaluate(files, tmp_path, capsys):
    assert train(files, tmp_path / "run", "--optimizer adamw --balance") == 0
    assert (tmp_path / "run" / "training" / "history.csv").read_text().startswith("epoch,")
    # A finished run is not trained again; the model is written again.
    assert train(files, tmp_path / "run", "--optimizer adamw --balance") == 0
    assert len((tmp_path / "run" / "training" / "history.csv").read_text().splitlines()) == 3
    # The same data in another place is the same data; other data is not.
    moved = files.with_name("moved")
    shutil.copytree(files, moved)
    assert train(moved, tmp_path / "run", "--optimizer adamw --balance") == 0
    (moved / "masks" / "0.png").unlink()
    (moved / "images" / "0.png").unlink()
    assert train(moved, tmp_path / "run", "--optimizer adamw --balance") == 1
    assert "number of pairs: 6 then, 5 now" in capsys.readouterr().err

    model, photo = tmp_path / "run" / "model", files / "images" / "0.png"
    assert main(f"segment {photo} --model {model} --out {tmp_path}".split()) == 0
    labels = Image.open(tmp_path / "0_labels.png")
    assert labels.mode == "P" and labels.size == (80, 64) and np.max(labels) < 9
    assert Image.open(tmp_path / "0_overlay.png").width >= 80

    capsys.readouterr()
    command = f"evaluate --images {files}/images --masks {files}/masks --model {model}"
    assert main(command.split()) == 0
    captured = capsys.readouterr()
    assert "all classes" in captured.out and captured.err == ""


def test_a_training_run_does_not_resume_with_other_settings(files, tmp_path, capsys):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "settings.json").write_text('{"width": 1.0}')
    assert train(files, tmp_path) == 1
    assert "width: 1.0 then, 0.125 now" in capsys.readouterr().err


def test_convert_recognizes_a_release_by_its_file_name(tmp_path, capsys):
    state = tiny_state("pytorch-encoding-r50s", 150)
    path = write_safetensors(tmp_path / "encnet_resnet50s_ade-07ac287c.pth", state)
    assert main(["convert", str(path), str(tmp_path / "model")]) == 0
    assert "EncNet.from_preset(" in capsys.readouterr().out
    model = EncNet.from_preset(tmp_path / "model")
    assert model.labels[:3] == ("wall", "building", "sky")
    assert model.evaluation["protocol"] == "pytorch-encoding" and model.align_corners


@pytest.mark.parametrize(
    "command,message",
    [
        ("train --images i --masks m --num-classes 2 --out x", "Received: 'i'"),
        ("segment photo.jpg --model nowhere", "Unknown preset 'nowhere'"),
        ("convert nowhere x", "keras-encnet convert: nowhere: No such file"),
        ("segment photo.jpg --model nowhere", "`keras-encnet presets` lists"),
    ],
)
def test_errors_name_what_is_missing(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


TRAIN = "train --images i --masks m --labels a,b --out x"


@pytest.mark.parametrize(
    "command,message",
    [
        ("train --out x", "--images and --masks are required"),
        ("train --images i --out x", "--images and --masks are required"),
        ("evaluate --masks m --model x", "--images and --masks are required"),
        ("train --images i --masks m --out x", "--labels or --num-classes is required"),
        (f"{TRAIN} --val-images v", "--val-images and --val-masks must be given together"),
        (f"{TRAIN} --val-masks v", "--val-images and --val-masks must be given together"),
        ("train --camvid c --images i --out x", "--camvid already says what --images would"),
        ("train --camvid c --labels a,b --out x", "--camvid already says what --labels would"),
        ("evaluate --camvid c --label-map 1:0 --model x", "--camvid already says what --label-map"),
        ("train --camvid . --val-masks v --out x", "--camvid already says what --val-masks would"),
        ("train --camvid . --num-classes 9 --out x", "--camvid already says what --num-classes"),
        (f"{TRAIN} --num-classes 3", "--labels must be 3 names if --num-classes is 3. Received: 2"),
        (f"{TRAIN} --label-map 1:0 2:1 --label-map 1:2", "must rename each value once. Received: 1"),
        (f"{TRAIN} --label-map", "--label-map: expected at least one argument"),
        (f"{TRAIN} --label-map 255", "--label-map: must be FROM:TO, two integers such as"),
        (f"{TRAIN} --label-map=1:-1", "Received: '1:-1'"),
        (f"{TRAIN} --labels a,,b", "--labels: must be names separated by commas"),
        (f"{TRAIN} --preset p --width 0.5", "--preset already says what --width would"),
        (
            f"{TRAIN} --preset p --backbone resnet50 --laterals",
            "--preset already says what --backbone and --laterals would",
        ),
        (f"{TRAIN} --epochs 0", "--epochs: must be an integer from 1 up. Received: '0'"),
        (f"{TRAIN} --epochs 1.5", "--epochs: must be an integer from 1 up. Received: '1.5'"),
        (f"{TRAIN} --batch-size -1", "--batch-size: must be an integer from 1 up. Received: '-1'"),
        (f"{TRAIN} --learning-rate 0", "--learning-rate: must be a number above 0. Received: '0'"),
        (f"{TRAIN} --learning-rate nan", "--learning-rate: must be a number above 0"),
        (f"{TRAIN} --width -1", "--width: must be a number above 0. Received: '-1'"),
        (f"{TRAIN} --validate-every 0", "--validate-every: must be an integer from 1 up"),
        (f"{TRAIN} --num-classes 0", "--num-classes: must be an integer from 1 up"),
        (f"{TRAIN} --head-channels 0", "--head-channels: must be an integer from 1 up"),
        (f"{TRAIN} --size 31 64", "--size: must be an integer from 32 up. Received: '31'"),
        (f"{TRAIN} --seed -1", "--seed: must be an integer from 0 to 4294967295. Received: '-1'"),
        ("demo --seed 4294967296", "--seed: must be an integer from 0 to 4294967295"),
        ("export m p --image-size 16 64", "--image-size: must be an integer from 32 up"),
        ("export m p --dtype int8", "--dtype: invalid choice: 'int8'"),
        ("train --camvid c --out x", "--camvid must be a directory. Received: 'c'"),
        ("export m p --quantize int8", "--quantize needs --calibration"),
        ("export m p --calibration c", "--calibration is only of use with --quantize int8"),
        ("export m p --format onnx --version 1", "--version is only for --format tf_saved_model"),
        ("nonsense", "invalid choice: 'nonsense'"),
        ("train --recipe ade20k_r50 --out x", "--recipe needs --root, the directory of its data set"),
        ("train --recipe ade20k_r50 --root no --out x", "--root must be a directory. Received: 'no'"),
        (f"{TRAIN} --epochs 2 --steps 3", "--epochs and --steps are two ways to give the length"),
        (f"{TRAIN} --batch-size 8 --accumulate 3", "--accumulate must divide --batch-size, 8. .*: 3"),
        (f"{TRAIN} --loss dice:0.5 dice", "--loss must have each loss once. Received: dice twice"),
        (f"{TRAIN} --loss cake", "--loss: must be NAME or NAME:WEIGHT, with one of cross_entropy, lab"),
        (f"{TRAIN} --early-stopping 3", "--early-stopping needs validation: --val-share 0.2"),
        (f"{TRAIN} --flip 2", "--flip: must be between 0 and 1"),
        (f"{TRAIN} --set momentum", "--set: must be NAME=VALUE, momentum=0.8 for instance"),
        (
            f"{TRAIN} --labels 1:a,2:b",
            "--labels must be names alone, unless .* --labels a,b in the ord",
        ),
        (f"{TRAIN} --palette 1,2", "--palette: must be a colour, 128,64,128 or #804080"),
        (f"{TRAIN} --palette 1,2,3", "--palette must have a colour for each of the 2 --labels. .*: 1"),
        (f"{TRAIN} --label-map 1,2,3:0", "--label-map renames colours only together with --palette"),
        (f"{TRAIN} --image-feature a", "--image-feature is only of use with --dataset tfds/NAME"),
        (
            "train --dataset tfds/a --image-feature a --out x",
            "--image-feature and --mask-feature must be given together",
        ),
        (
            "train --images i --annotations a.json --num-classes 2 --out x",
            "--annotations already says what --num-classes would",
        ),
    ],
)
def test_wrong_arguments_are_named_below_the_usage(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, usage_error(command, capsys)), message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [TRAIN.replace("x", "{}"), "demo --out {}", "segment p --model m --out {}", "convert c {}"],
)
def test_a_place_that_cannot_be_written_is_refused_at_once(command, capsys, tmp_path, monkeypatch):
    (tmp_path / "taken").touch()
    message = usage_error(command.format(tmp_path / "taken"), capsys)
    assert f"must be a directory. Received: '{tmp_path / 'taken'}', a file" in message
    message = usage_error(command.format(tmp_path / "taken" / "run"), capsys)
    assert f"where {tmp_path / 'taken'} is a file" in message
    # The administrator may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    message = usage_error(command.format(tmp_path / "new" / "run"), capsys)
    assert f"where {tmp_path} is not" in message


def test_the_tables_of_choices_are_those_of_the_package():
    options = {names[0]: options for names, options in COMMANDS["export"][2]}
    assert all(name in options["--format"]["help"] for name in FORMATS)
    defaults = inspect.signature(export_model).parameters
    assert options["--outputs"]["default"] == defaults["outputs"].default
    assert MIN_SIDE == MIN_SIZE and tuple(geometry.PROTOCOLS) == PROTOCOLS
    assert {name.replace("-", "_") for name in COMMANDS} <= set(vars(commands))
    assert set(DATASETS) == set(datasets.DATASETS)
    assert tuple(LOSS_TABLE) == LOSSES
    stages = {layer.name.partition("_")[0] for layer in EncNet("resnet18", 2).backbone.layers}
    assert {*STAGES, "stem", "stage4", "images"} == stages


@pytest.mark.parametrize("saved", [True, False])
def test_ctrl_c_promises_to_resume_only_from_a_checkpoint(saved, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    if saved:
        (tmp_path / "training").mkdir()
        (tmp_path / "training" / "step-00000003.keras").touch()
    for command in (TRAIN.replace("x", str(tmp_path)), f"demo --out {tmp_path}", "presets"):
        name = command.split()[0]
        monkeypatch.setattr(commands, name, interrupted)
        assert main(command.split()) == 130
        error = capsys.readouterr().err
        assert "Stopped." in error
        assert ("Run the same command again to resume" in error) == (saved and name != "presets")


@pytest.mark.parametrize("option", ["--report", "--save-predictions"])
def test_ctrl_c_promises_that_an_evaluation_resumes(option, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "evaluate", interrupted)
    command = f"evaluate --images i --masks m --model x {option} {tmp_path}".split()
    assert main(command) == 130
    assert "Run the same" not in capsys.readouterr().err
    with open_journal(tmp_path, {}, {}) as journal:
        confusion = np.ones((1, 1), "int64")
        journal.add(record_of(confusion, index=0, name="a", source="a.jpg", size=(1, 1), presence=None))
    assert main(command) == 130
    assert "Stopped. Run the same command again to resume." in capsys.readouterr().err


# === Photographs ===


def test_photographs_of_one_name_are_all_kept(files, model, tmp_path, capsys):
    for name in ("a/photo.png", "b/photo.png", "b/photo.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(files / "images" / "0.png").save(tmp_path / name)

    def results(out, *photos):
        photos = [str(tmp_path / photo) for photo in photos]
        assert main(["segment", *photos, "--model", str(model), "--out", str(tmp_path / out)]) == 0
        found = (tmp_path / out).rglob("*_labels.png")
        return sorted(path.relative_to(tmp_path / out).as_posix() for path in found)

    assert results("1", "a/photo.png", "b/photo.png") == ["a/photo_labels.png", "b/photo_labels.png"]
    assert results("2", "b/photo.png", "b") == ["photo.jpg_labels.png", "photo.png_labels.png"]
    assert results("3", "a/photo.png", "a/../a/photo.png") == ["photo_labels.png"]
    assert capsys.readouterr().err == ""


def test_folders_patterns_and_broken_files_are_segmented(files, model, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "small.png")
    command = f"segment nowhere.jpg {tmp_path}/photos {files}/images/[01].png {files}/images/2.png"
    assert main([*command.split(), "--model", str(model), "--out", str(tmp_path / "out")]) == 1
    assert len(list((tmp_path / "out").glob("*_labels.png"))) == 3
    assert len(list((tmp_path / "out").iterdir())) == 6
    captured = capsys.readouterr()
    assert "in the scene, as the SE head estimates: " in captured.out
    error = captured.err.splitlines()
    assert error[0] == "keras-encnet segment: 3 of the inputs failed:"
    for name, line in zip(("nowhere.jpg", "broken.jpg", "small.png"), error[1:], strict=True):
        assert name in line


def test_earlier_results_in_a_folder_are_left_out(files, model, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(files / "images" / "0.png", photos / "0.png")
    command = ["segment", str(photos), "--model", str(model), "--out", str(photos)]
    for _ in range(2):
        assert main(command) == 0
        assert len(list(photos.iterdir())) == 3
    # Named, they are photographs as well.
    named = str(photos / "0_overlay.png")
    assert main(["segment", named, "--model", str(model), "--out", str(tmp_path / "out")]) == 0
    (photos / "0.png").unlink()
    assert main(command) == 1
    assert "photos has no images but results of this command" in capsys.readouterr().err


def test_one_video_without_a_package_does_not_keep_the_photographs_from_it(
    files, model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(video, "LIBRARIES", {})
    (tmp_path / "clips").mkdir()
    for name in ("1.mp4", "2.mp4"):
        (tmp_path / "clips" / name).touch()
    command = ["segment", "nowhere.jpg", f"{tmp_path}/clips/*.mp4", str(files / "images" / "0.png")]
    assert main([*command, "--model", str(model), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()
    assert error[0] == "keras-encnet segment: 3 of the inputs failed:" and "nowhere.jpg" in error[1]
    assert all("Videos need PyAV or OpenCV" in line for line in error[2:4])
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_pattern_of_videos_is_all_of_them(tmp_path):
    for name in ("2.mp4", "10.mp4", "[1].mp4", "photo.jpg"):
        (tmp_path / name).touch()
    found, failures = commands._photos([f"{tmp_path}/[0-9]*.mp4", f"{tmp_path}/[1].mp4"])
    assert [path.name for path in found] == ["2.mp4", "10.mp4", "[1].mp4"] and not failures
    found, failures = commands._photos([f"{tmp_path}/no*.mp4", f"{tmp_path}/none.mp4", str(tmp_path)])
    assert [path.name for path in found] == ["photo.jpg"] and len(failures) == 2
    assert "no*.mp4" in str(failures[0]) and "none.mp4" in str(failures[1])


@pytest.mark.parametrize("command", ["segment p", "evaluate --images i --masks m"])
def test_the_way_to_look_is_what_segment_takes(command):
    def how(options):
        return commands._how(make_parser().parse_args(f"{command} --model m {options}".split()))

    assert how("") == {}
    assert how("--no-window --no-resize") == {"window": False, "resize": False}
    given = how("--window 64 96 --resize 96 64 --protocol pytorch-encoding --batch-size 4 --flip")
    assert given == {
        "window": [64, 96],
        "resize": [96, 64],
        "protocol": "pytorch-encoding",
        "batch_size": 4,
        "flip": True,
    }


def test_a_preset_with_a_window_can_be_seen_whole(files, tmp_path, monkeypatch, capsys):
    labels = scenes(1).labels
    model = EncNet("resnet18", len(labels), labels=labels, width=0.125, head_channels=8)
    model.evaluation = {"window": 48, "resize": [4000, 40]}
    model.save_to_preset(tmp_path / "model")
    photo = files / "images" / "0.png"
    command = f"segment {photo} --model {tmp_path}/model --out {tmp_path}/out".split()
    seen = []
    segment = EncNet.segment
    monkeypatch.setattr(
        EncNet, "segment", lambda self, *photo, **how: seen.append(how) or segment(self, *photo, **how)
    )
    assert main([*command, "--no-window", "--no-resize", "--batch-size", "2"]) == 0
    assert seen == [{"window": False, "resize": False, "batch_size": 2, "confidence": False}]
    whole = np.asarray(Image.open(tmp_path / "out" / "0_labels.png"))
    expected = model.segment(photo, window=False, resize=False)
    np.testing.assert_array_equal(whole, expected.label_map)


def test_images_alone_are_enough_to_save_predictions(files, model, tmp_path, capsys):
    command = f"evaluate --images {files}/images --model {model} --limit 2"
    assert "--images and --masks are required" in usage_error(command, capsys)
    assert main([*command.split(), "--save-predictions", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["0.png", "1.png"]
    assert "The label maps are in" in capsys.readouterr().out


# === Words ===


def test_messages_name_options_instead_of_arguments(files, model, tmp_path, capsys):
    command = (
        f"export {model} {tmp_path}/m --format openvino --quantize int8 --calibration {files}/images"
    )
    assert main(command.split()) == 1
    error = capsys.readouterr().err
    assert "keras-encnet export: --quantize must be 'int8', with the format 'onnx'" in error


def test_advice_names_the_option_that_turns_something_off():
    text = cli._text(ValueError("Pass `resize=False` or `background=False`."), "segment")
    assert text == "Pass --no-resize or `background=False`."


def test_warnings_are_one_line(files, tmp_path, capsys):
    """A class without examples, in `evaluate`'s masks."""
    (tmp_path / "masks").mkdir()
    for i in range(6):
        Image.new("L", (80, 64), color=1).save(tmp_path / "masks" / f"{i}.png")
    command = (
        f"train --images {files}/images --masks {tmp_path}/masks --num-classes 2 --out {tmp_path}/run "
        "--backbone resnet18 --width 0.125 --head-channels 8 --size 48 64 --batch-size 3 --epochs 1"
    )
    assert main(command.split()) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("keras-encnet train: warning: No mask has this class: 0.")
    assert len(lines) == 1


def test_masks_that_cannot_be_trained_on_leave_no_run(files, tmp_path, capsys):
    more = "--backbone resnet18 --width 0.125 --head-channels 8 --size 48 64 --num-classes 2".split()
    command = f"train --images {files}/images --masks {files}/masks --out {tmp_path}/run".split()
    assert main([*command, *more]) == 1
    assert "Mask values must be one of the 2 classes" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()] == [".lock"]


def test_masks_are_checked_with_the_value_that_a_preset_ignores(files, tmp_path, capsys):
    labels = scenes(1).labels
    EncNet(
        "resnet18", len(labels), labels=labels, width=0.125, head_channels=8, ignore_index=20
    ).save_to_preset(tmp_path / "preset")
    (tmp_path / "masks").mkdir()
    for i in range(6):
        mask = np.array(Image.open(files / "masks" / f"{i}.png"))
        mask[:2] = 20
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    command = (
        f"train --images {files}/images --masks {tmp_path}/masks --labels {','.join(labels)} --out "
        f"{tmp_path}/run --preset {tmp_path}/preset --size 48 64 --batch-size 3 --epochs 1"
    )
    assert main(command.split()) == 0, capsys.readouterr().err


def test_every_advice_about_mask_values_can_be_given_to_the_command():
    random = np.random.default_rng(0)
    known = [{-2: 4, -1: 9, 0: 70, 1: 80}, {9: 1, 10: 1, 11: 1}, {0: 5, 255: 5}, {0: 1, -1: 3, 254: 4}]
    drawn = [
        dict.fromkeys(random.choice(np.arange(-3, 256), random.integers(1, 6), replace=False), 10)
        for _ in range(200)
    ]
    mapped = 0
    for totals in [*known, *drawn]:
        totals = {int(value): pixels for value, pixels in totals.items()}
        if not any(is_outside(value, 3, 255) for value in totals):
            continue
        for reading in readings(totals, 3, 255):
            text = MaskError("", [reading]).text(command_line=True)
            options = re.findall(r"--label-map[= ]?[-\d: ]*\d|--label-map=\S+:\d+", text)
            given = [word for option in options for word in option.split()]
            arguments = make_parser().parse_args(
                ["evaluate", *"--images i --masks m --model x".split(), *given]
            )
            assert dict(arguments.label_map) == (reading.label_map or {}), text
            mapped += bool(reading.label_map)
    assert mapped > 100
    text = MaskError("", readings(known[0], 2, 255)).text(command_line=True)
    assert "pass --label-map=-2:255 --label-map=-1:255." in text


def test_validation_images_are_named_as_such(files, tmp_path, capsys):
    command = (
        f"train --images {files}/images --masks {files}/masks --num-classes 9 --out {tmp_path}/run"
    )
    assert main([*command.split(), "--val-images", "nowhere", "--val-masks", f"{files}/masks"]) == 1
    assert "keras-encnet train: --val-images must be a directory" in capsys.readouterr().err


def test_names_of_classes_must_be_the_model_s(files, model, capsys):
    labels = ",".join(reversed(scenes(1).labels))
    command = (
        f"evaluate --images {files}/images --masks {files}/masks --model {model} --labels {labels}"
    )
    assert main(command.split()) == 1
    assert "in the same order. Received: " in capsys.readouterr().err


# === The process ===


def test_presets_are_listed(capsys):
    assert main(["presets"]) == 0
    assert "ade20k_r101_512x512_160k" in capsys.readouterr().out


def test_python_m_prints_the_version():
    command = [sys.executable, "-m", "keras_encnet", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"keras-encnet {__version__}\n")


@pytest.mark.parametrize("arguments,status", [("--help", 0), ("train --help", 0), ("train", 2)])
def test_arguments_are_read_without_keras(arguments, status):
    command = [sys.executable, "-X", "importtime", "-m", "keras_encnet", *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status
    imported = {line.split("|")[2].strip() for line in done.stderr.splitlines() if line.count("|") == 2}
    assert "keras_encnet.cli" in imported
    assert not imported & {"keras", "tensorflow", "jax", "torch", "numpy"}


def test_the_command_is_quiet(files, model, tmp_path):
    """Segments images of many sizes, for each of which TensorFlow makes a graph."""
    for i in range(7):
        Image.new("RGB", (64 + 16 * i, 64)).save(tmp_path / f"{i}.png")
    environment = {name: value for name, value in os.environ.items() if name != cli.TF_LOG_LEVEL}
    command = f"-m keras_encnet segment {tmp_path} --model {model} --out {tmp_path}/out"
    done = subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out").iterdir())) == 14


@pytest.mark.skipif(os.name == "nt", reason="needs pipes that can be closed")
def test_a_reader_that_stops_reading_makes_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_encnet", "presets"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read().count("Traceback") == 0
    assert process.wait() == 141


@pytest.mark.parametrize("command", ["", "train", "segment", "evaluate", "convert", "export", "demo"])
def test_help_is_printed(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([*command.split(), "--help"])
    assert exit.value.code == 0
    assert f"usage: keras-encnet {command}".strip() in capsys.readouterr().out
