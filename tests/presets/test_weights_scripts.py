"""The scripts in `weights/` that convert the releases and publish them."""

import hashlib
import importlib
import json
import pathlib
import subprocess

import numpy as np
import pytest

from golden.files import shapes_of, tiny, write_safetensors
from golden.weights import image, state_dict
from keras_encnet import EncNet
from keras_encnet.zoo import table

SCRIPTS = pathlib.Path(__file__).parents[2] / "weights"
NAME = "ade20k_r50_512x512_160k"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("convert"), importlib.import_module("publish")


@pytest.fixture
def released(scripts, tmp_path, monkeypatch):
    """Makes the script's download a tiny network."""
    convert, _ = scripts

    def release(architecture="mmsegmentation-r50v1c"):
        state = state_dict(tiny(shapes_of(architecture, 150), 150))
        file = table.find(NAME).release["url"].rsplit("/", 1)[1]
        path = write_safetensors(tmp_path / file, state)
        monkeypatch.setattr(convert, "download_release", lambda release, **_: path)
        return path

    return release


@pytest.mark.slow
def test_convert_then_publish(scripts, released, hub, client, tmp_path, monkeypatch, capsys):
    convert, publish = scripts
    path, out = released(), tmp_path / "out"
    convert.main(["ade20k_r50", "--out", str(out)])
    manifest = json.loads((out / "manifest.json").read_text())
    entry, weights = manifest[NAME], (out / NAME / "model.weights.h5").read_bytes()
    assert list(manifest) == [NAME] and entry["differences"] is None
    assert entry["release_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert entry["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert entry["weights_bytes"] == len(weights)

    # Presets in the manifest are not converted again.
    monkeypatch.setattr(
        convert, "download_release", lambda release, **_: pytest.fail("downloaded again")
    )
    convert.main([NAME, "--out", str(out)])

    with pytest.raises(ValueError, match="was not compared with its original"):
        publish.main(["ada", "--out", str(out)])
    capsys.readouterr()
    publish.main(["ada", "--dry-run", "--unverified", "--out", str(out)])
    printed = capsys.readouterr().out
    assert f"ada/encnet_{NAME} would get" in printed and f"{len(weights):,} bytes" in printed
    assert not hub.repos
    card = (out / "cards" / f"{NAME}.md").read_text()
    for part in ("40.1", "41.71", "`0` wall", "![", "license: apache-2.0", "Zhang_2018_CVPR", "ADE20K"):
        assert part in card, part

    monkeypatch.setenv("HF_TOKEN", "hf_ada")
    publish.main(["ada", "--unverified", "--out", str(out)])
    line = capsys.readouterr().out.partition('"hub": ')[2]
    pinned = json.loads(line)
    repo = hub.repos[f"ada/encnet_{NAME}"]
    assert pinned["repo"] == f"ada/encnet_{NAME}" and pinned["sha256"] == entry["weights_sha256"]
    assert pinned["revision"] == repo.branches["main"]
    client(HF_HUB_CACHE=str(tmp_path / "another"))
    again = EncNet.from_preset(f"hf://ada/encnet_{NAME}", revision=pinned["revision"])
    assert again.labels[0] == "wall"


def test_release_of_another_architecture_is_refused(scripts, released, tmp_path):
    released("mmsegmentation-r18v1c")
    with pytest.raises(
        ValueError, match=f"{NAME} must have backbone_name='resnet50'.*Received: 'resnet18'"
    ):
        scripts[0].main([NAME, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out" / NAME).exists()


def test_manifest_holds_only_presets_that_agree_with_the_original(
    scripts, released, tmp_path, monkeypatch
):
    convert, _ = scripts
    path, out = released(), tmp_path / "out"
    pixels = image(0, 40, 56)
    model = EncNet.from_pytorch(path)
    heads = model.heads_network().predict_on_batch(pixels[None].astype("float32"))
    theirs = {f"40x56/{key}": np.array(value[0]) for key, value in heads.items()}

    run_program = subprocess.run

    def original(command, **options):
        if command[0] != "its-python":
            return run_program(command, **options)
        python, script, run, record, checkpoint, outputs, size = map(str, command)
        assert (run, checkpoint, size) == ("run", str(path), "40x56") and options == {"check": True}
        assert pathlib.Path(script) == SCRIPTS / "originals.py"
        asked = json.loads(pathlib.Path(record).read_text())
        assert asked["config"] == "encnet_r50-d8_4xb4-160k_ade20k-512x512"
        assert (asked["format"], asked["num_classes"]) == ("mmsegmentation", 150)
        np.savez(outputs, **{"40x56/image": pixels}, **theirs)

    monkeypatch.setattr(convert, "SIZE", (40, 56))
    monkeypatch.setattr(subprocess, "run", original)
    command = [NAME, "--originals", "its-python", "--out", str(out)]
    aux = theirs["40x56/aux"]
    kept = aux[0, 0, 0]
    aux[0, 0, 0] += 0.001 * np.abs(aux).max()
    with pytest.raises(ValueError, match=f"{NAME} must agree with the original to 0.0001.*'aux': 0.00"):
        convert.main(command)
    assert not (out / "manifest.json").exists()

    aux[0, 0, 0] = kept
    convert.main(command)
    differences = json.loads((out / "manifest.json").read_text())[NAME]["differences"]
    assert sorted(differences) == ["aux", "logits", "se"] and max(differences.values()) < 1e-6


def test_changed_weights_are_not_published(scripts, released, hub, tmp_path):
    convert, publish = scripts
    released()
    convert.main([NAME, "--out", str(tmp_path / "out")])
    with open(tmp_path / "out" / NAME / "model.weights.h5", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="has changed since it was checked"):
        publish.main(["ada", NAME, "--out", str(tmp_path / "out")])
    assert not hub.repos
