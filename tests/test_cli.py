"""The command line, from files to files."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from golden.files import tiny_state, write_safetensors
from keras_encnet import EncNet, __version__
from keras_encnet.cli import main
from keras_encnet.demo import scenes


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

    model, photo = tmp_path / "run" / "model", files / "images" / "0.png"
    assert main(f"segment {photo} --model {model} --out {tmp_path}".split()) == 0
    labels = Image.open(tmp_path / "0_labels.png")
    assert labels.mode == "P" and labels.size == (80, 64) and np.max(labels) < 9
    assert Image.open(tmp_path / "0_overlay.png").width >= 80

    capsys.readouterr()
    command = f"evaluate --images {files}/images --masks {files}/masks --model {model}"
    assert main(command.split()) == 0
    assert "all classes" in capsys.readouterr().out


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
        ("train --out x", "--images and --masks"),
        ("train --images i --masks m --out x", "i"),
        ("train --images i --masks m --val-images v --out x", "--val-images and --val-masks"),
        ("segment photo.jpg --model nowhere", "Unknown preset 'nowhere'"),
    ],
)
def test_errors_name_what_is_missing(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_number_of_classes_is_required(files, tmp_path, capsys):
    command = f"train --images {files}/images --masks {files}/masks --out {tmp_path / 'run'}"
    assert main(command.split()) == 1
    assert "--labels or --num-classes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_presets_are_listed(capsys):
    assert main(["presets"]) == 0
    assert "ade20k_r101_512x512_160k" in capsys.readouterr().out


def test_python_m_prints_the_version():
    command = [sys.executable, "-m", "keras_encnet", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"keras-encnet {__version__}\n")


@pytest.mark.parametrize("command", ["", "train", "segment", "evaluate", "convert", "export", "demo"])
def test_help_is_printed(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([*command.split(), "--help"])
    assert exit.value.code == 0
    assert f"usage: keras-encnet {command}".strip() in capsys.readouterr().out
