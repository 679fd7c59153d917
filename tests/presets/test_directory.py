"""Presets are written completely or not at all, read back unchanged, and refused if damaged."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import keras
import numpy as np
import pytest

from golden.weights import image
from keras_encnet import EncNet, list_presets

ONE = image(0, 40, 56)[None]


def tiny(num_classes=3, **kwargs):
    return EncNet("resnet18", num_classes, width=0.125, head_channels=8, num_codes=4, **kwargs)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = tiny(labels=["sky", "road", "car"], evaluation={"resize": [64, 48]})
    model.compile("sgd")
    model.train_on_batch(ONE, np.zeros((1, 40, 56), "uint8"))
    directory = tmp_path_factory.mktemp("presets") / "mine"
    model.save_to_preset(directory)
    return model, directory


def same_weights(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


def test_loads_what_was_saved(saved):
    model, directory = saved
    again = EncNet.from_preset(directory)
    assert again.get_config() == model.get_config() and same_weights(model, again)
    assert not again.compiled
    np.testing.assert_array_equal(again.predict(ONE, verbose=0), model.predict(ONE, verbose=0))


def test_format_is_keras_own_without_optimizer(saved):
    import h5py

    model, directory = saved
    assert sorted(p.name for p in directory.iterdir()) == [
        "config.json",
        "metadata.json",
        "model.weights.h5",
    ]
    with h5py.File(directory / "model.weights.h5") as file:
        names = []
        file.visit(names.append)
    assert not any("optimizer" in name for name in names)
    assert same_weights(keras.saving.load_model(directory), model)


def test_saving_twice_replaces(saved, tmp_path):
    model, _ = saved
    directory = tmp_path / "mine"
    tiny().save_to_preset(directory)
    model.save_to_preset(directory)
    assert same_weights(EncNet.from_preset(directory), model)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_relative_path(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved[0].save_to_preset("runs/mine")
    assert same_weights(EncNet.from_preset("runs/mine"), saved[0])
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_other_directories_are_not_overwritten(saved, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not a preset"):
        saved[0].save_to_preset(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_failed_save_leaves_the_old_preset(saved, tmp_path, monkeypatch):
    model, directory = saved
    mine = tmp_path / "mine"
    shutil.copytree(directory, mine)

    def full_disk(*args, **kwargs):
        (pathlib.Path(args[1])).mkdir()
        raise OSError("No space left on device")

    monkeypatch.setattr(EncNet, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        tiny().save_to_preset(mine)
    monkeypatch.undo()
    assert same_weights(EncNet.from_preset(mine), model)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_kill_between_the_two_renames_loses_nothing(saved, tmp_path):
    model, directory = saved
    shutil.copytree(directory, tmp_path / ".mine-before")
    assert same_weights(EncNet.from_preset(tmp_path / "mine"), model)


@pytest.mark.slow
def test_kill_during_the_save_loses_nothing(saved, tmp_path):
    _, directory = saved
    mine = tmp_path / "mine"
    shutil.copytree(directory, mine)
    script = textwrap.dedent(
        f"""
        from keras_encnet import EncNet
        model = EncNet.from_preset({str(mine)!r})
        print("ready", flush=True)
        while True:
            model.save_to_preset({str(mine)!r})
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ.copy()
    )
    assert child.stdout.readline().strip() == b"ready"
    time.sleep(1.7)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert same_weights(EncNet.from_preset(mine), EncNet.from_preset(directory))


def test_new_classifiers_on_an_old_network(saved):
    model, directory = saved
    new = EncNet.from_preset(directory, num_classes=5, labels=list("abcde"))
    assert new.num_classes == 5 and new.labels == tuple("abcde") and new.palette is None
    old = {layer.name: layer for layer in model._flatten_layers() if not layer._layers}
    for layer in new._flatten_layers():
        if layer._layers or not layer.weights:
            continue
        pairs = list(zip(layer.get_weights(), old[layer.name].get_weights(), strict=True))
        if layer.name.endswith("_logits"):
            assert all(a.shape[-1] == 5 for a, _ in pairs)
        else:
            assert all(np.array_equal(a, b) for a, b in pairs), layer.name


def test_classifiers_are_new_even_for_as_many_classes(saved):
    model, directory = saved
    new = EncNet.from_preset(directory, num_classes=3)
    old, fresh = (m.get_layer("pixel_logits").get_weights()[0] for m in (model, new))
    assert not np.array_equal(old, fresh)


def test_without_weights_with_other_labels_with_another_dtype(saved):
    model, directory = saved
    assert not same_weights(EncNet.from_preset(directory, load_weights=False), model)
    renamed = EncNet.from_preset(directory, labels=["himmel", "strasse", "auto"])
    assert renamed.labels[0] == "himmel" and same_weights(renamed, model)
    half = EncNet.from_preset(directory, dtype="mixed_bfloat16")
    assert half.dtype_policy.name == "mixed_bfloat16" and same_weights(half, model)


@pytest.mark.parametrize("file", ["config.json", "metadata.json", "model.weights.h5"])
def test_missing_and_damaged_files_are_named(saved, tmp_path, file):
    _, directory = saved
    mine = tmp_path / "mine"
    shutil.copytree(directory, mine)
    content = (mine / file).read_bytes()
    if file != "metadata.json":
        (mine / file).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"{file} is damaged"):
            EncNet.from_preset(mine)
    (mine / file).unlink()
    with pytest.raises(ValueError, match=f"{file} is missing"):
        EncNet.from_preset(mine)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'ade20k_r101'"):
        EncNet.from_preset("ade20k-r101x")


SAVED = sorted(path for path in pathlib.Path(__file__).parent.glob("saved_by_*") if path.is_dir())


def test_presets_of_the_oldest_and_the_newest_keras_are_there():
    versions = {json.loads((path / "metadata.json").read_text())["keras_version"] for path in SAVED}
    assert {"3.13.2", "3.15.1"} <= versions


@pytest.mark.parametrize("directory", SAVED, ids=lambda directory: directory.name)
def test_presets_saved_by_other_versions_load(directory):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras warns of layers whose weights it does not find.
        model = EncNet.from_preset(directory)
    outputs = model.heads_network().predict_on_batch(ONE.astype("float32"))
    expected = json.loads(directory.with_name(f"{directory.name}.json").read_text())
    for name, value in expected.items():
        found = outputs[name][0] if name == "se" else outputs[name][0, ::13, ::17]
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)


def test_the_table_of_published_models():
    table = list_presets()
    assert len(table) == 16
    best = {preset.name: preset for preset in table}["ade20k_r101_512x512_160k"]
    assert (best.miou, best.miou_ms_flip, best.num_classes) == (42.61, 44.01, 150)
    assert str(table).splitlines()[0].split() == [
        "name", "short_name", "dataset", "backbone", "num_classes", "miou", "miou_ms_flip", "size_mb",
        "source",
    ]  # fmt: skip


def test_the_table_shows_short_names_and_sizes():
    presets = {preset.name: preset for preset in list_presets()}
    best = presets["ade20k_r101_512x512_160k"]
    assert best.short_name == "ade20k_r101"
    row = next(line for line in str(list_presets()).splitlines() if line.startswith(best.name))
    assert row.split()[1] == "ade20k_r101" and "221" in row.split()
    assert sum(preset.short_name is not None for preset in presets.values()) == 4
    assert EncNet("resnet101", 150).count_params() * 4e-6 == pytest.approx(best.size_mb, rel=0.01)


def test_saving_after_a_kill_before_the_old_preset_was_removed(saved, tmp_path):
    model, _ = saved
    model.save_to_preset(tmp_path / "mine")
    (tmp_path / ".mine-before").mkdir()
    (tmp_path / ".mine-before" / "config.json").write_text("{}")
    model.save_to_preset(tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_link_to_a_preset_stays_a_link(saved, tmp_path, monkeypatch):
    model, _ = saved
    (tmp_path / "there").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "there")
    for _ in range(2):
        model.save_to_preset(tmp_path / "here")
    assert (tmp_path / "here").is_symlink() and (tmp_path / "there" / "config.json").is_file()
    monkeypatch.chdir(tmp_path / "here")
    assert same_weights(EncNet.from_preset("."), model)
