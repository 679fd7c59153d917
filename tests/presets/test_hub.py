"""Publishing and downloading with `huggingface_hub`, against a Hub on loopback."""

import errno
import hashlib
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import types

import huggingface_hub
import numpy as np
import pytest
from hub_server import Commit, File, Repo

from golden.weights import image
from keras_encnet import EncNet
from keras_encnet.presets.card import model_card
from keras_encnet.presets.directory import FILES
from keras_encnet.presets.hub import download_from_hub, download_from_kaggle, push_to_hub

hub_module = importlib.import_module("keras_encnet.presets.hub")
SAVED = pathlib.Path(__file__).parent / "saved_by_0_1"
SHA256 = hashlib.sha256((SAVED / "model.weights.h5").read_bytes()).hexdigest()
ONE = image(0, 40, 56)[None]


@pytest.fixture(scope="module")
def model():
    return EncNet.from_preset(SAVED)


def published(hub, name="ada/streets", files=FILES, **extra):
    """A repository that holds files of a preset, and others."""
    content = {file: (SAVED / file).read_bytes() for file in files} | extra
    repo = hub.repos[name] = Repo()
    there = {path: File(data, path.endswith(".h5")) for path, data in content.items()}
    hub.objects |= {file.sha256: file.content for file in there.values()}
    repo.add("main", Commit("files", repo.branches["main"], there))
    return repo


def test_pushed_model_loads_elsewhere(hub, client, model, tmp_path):
    address = model.push_to_hub("hf://ada/streets", token="hf_ada")
    repo = hub.repos["ada/streets"]
    assert address == f"{hub.url}/ada/streets/commit/{repo.branches['main']}"
    assert not repo.private

    client(HF_HUB_CACHE=str(tmp_path / "another"))
    again = EncNet.from_preset("hf://ada/streets")
    assert again.get_config() == model.get_config()
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    expected = json.loads(SAVED.with_suffix(".json").read_text())["logits"]
    logits = again.predict(ONE, verbose=0)[0, ::13, ::17]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_repository_holds_only_the_preset_and_its_card(hub, model, tmp_path):
    push_to_hub(model, "ada/streets", token="hf_ada", commit_message="The first one")
    newest, initial = hub.repos["ada/streets"].history()
    assert (newest.message, list(initial.files)) == ("The first one", [".gitattributes"])
    files = {path: file.content for path, file in newest.files.items() if path not in initial.files}
    assert sorted(files) == ["README.md", *FILES]
    model.save_to_preset(tmp_path / "here")
    for name in ("config.json", "model.weights.h5"):
        assert files[name] == (tmp_path / "here" / name).read_bytes()
    assert files["README.md"].decode() == model_card(model, "ada/streets", licence=None)
    directory = download_from_hub("hf://ada/streets")
    assert {name: (directory / name).read_bytes() for name in FILES} == {
        name: files[name] for name in FILES
    }


def test_settings_from_the_environment(hub, client, tmp_path):
    # In another process, as users do it: with HF_ENDPOINT, HF_TOKEN and HF_HOME.
    script = textwrap.dedent(
        f"""
        import keras, numpy as np
        import keras_encnet
        model = keras_encnet.EncNet.from_preset({str(SAVED)!r})
        model.push_to_hub("ada/streets", private=True)
        again = keras.saving.load_model("hf://ada/streets")
        assert type(again) is keras_encnet.EncNet
        for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        """
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_ada",
    }
    for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    child = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert hub.repos["ada/streets"].private
    assert any(request.startswith("PUT /") for request in hub.requests)  # not Xet
    assert (tmp_path / "home" / "hub" / "models--ada--streets").is_dir()


@pytest.mark.parametrize("is_private", [False, True])
def test_nothing_is_published_where_private_is_not_what_was_asked(is_private, hub, model):
    push_to_hub(model, "ada/streets", token="hf_ada", private=is_private)
    push_to_hub(model, "ada/streets", token="hf_ada", private=is_private)
    push_to_hub(model, "ada/streets", token="hf_ada")
    before = list(hub.repos["ada/streets"].history())
    kind = "private" if is_private else "public"
    message = f"`private` must be {is_private} or None for ada/streets, which exists and is {kind}"
    with pytest.raises(ValueError, match=message):
        push_to_hub(model, "ada/streets", token="hf_ada", private=not is_private)
    assert list(hub.repos["ada/streets"].history()) == before


def test_empty_arguments_are_refused(hub, model):
    with pytest.raises(ValueError, match="`token` must be an access token or None"):
        push_to_hub(model, "ada/streets", token="")
    with pytest.raises(ValueError, match="`revision` must be a branch.*Received: ''"):
        EncNet.from_preset("hf://ada/streets", revision="")


def test_two_pushes_are_two_commits(hub, model):
    first = push_to_hub(model, "ada/streets", token="hf_ada")
    other = EncNet("resnet18", 2, width=0.125, head_channels=8, num_codes=4)
    push_to_hub(other, "ada/streets", token="hf_ada")
    assert len(list(hub.repos["ada/streets"].history())) == 3
    old = EncNet.from_preset("hf://ada/streets", revision=first[-40:])
    new = EncNet.from_preset("hf://ada/streets")
    assert (old.num_classes, new.num_classes) == (3, 2)


def test_new_branch(hub, model):
    push_to_hub(model, "ada/streets", token="hf_ada", revision="try/1")
    repo = hub.repos["ada/streets"]
    assert len(list(repo.history("try/1"))) == 2 and len(list(repo.history("main"))) == 1
    assert (download_from_hub("hf://ada/streets", revision="try/1") / "config.json").is_file()


def test_picture_and_custom_card(hub, model, tmp_path):
    picture = tmp_path / "street.PNG"
    picture.write_bytes(b"\x89PNG\0")
    push_to_hub(model, "ada/streets", token="hf_ada", picture=picture)
    files = hub.repos["ada/streets"].at("main").files
    assert files["example.png"].content == b"\x89PNG\0"
    assert b"](example.png)" in files["README.md"].content
    push_to_hub(model, "ada/streets", token="hf_ada", card="---\nlicense: mit\n---\nMine\n")
    files = hub.repos["ada/streets"].at("main").files
    assert files["README.md"].content == b"---\nlicense: mit\n---\nMine\n" and "example.png" in files
    with pytest.raises(FileNotFoundError, match="must be an image file that exists.*nowhere.png"):
        push_to_hub(model, "ada/streets", token="hf_ada", picture=tmp_path / "nowhere.png")


def test_only_the_files_of_a_preset_are_downloaded(hub):
    published(hub, **{"pytorch_model.bin": b"large", "README.md": b"# Hello"})
    directory = download_from_hub("hf://ada/streets", sha256=SHA256.upper())
    assert sorted(path.name for path in directory.iterdir()) == list(FILES)
    for name in FILES:
        assert (directory / name).read_bytes() == (SAVED / name).read_bytes()
    asked = {request.rsplit("/", 1)[1] for request in hub.requests if "/resolve/" in request}
    assert asked == set(FILES)


def test_files_that_are_too_large_are_not_downloaded(hub, client, monkeypatch):
    published(hub, notes=b"x" * 10**6)  # not of the preset
    size = (SAVED / "model.weights.h5").stat().st_size
    monkeypatch.setattr(hub_module, "LARGEST", size - 1)
    message = (
        rf"model\.weights\.h5 of hf://ada/streets must have at most {size - 1} bytes. Received: {size}"
    )
    with pytest.raises(ValueError, match=message):
        download_from_hub("hf://ada/streets")
    with pytest.raises(ValueError, match="at most 10 bytes. Received: "):
        hub_module.download_file("ada/streets", "config.json", largest=10)
    assert not [request for request in hub.requests if "/resolve/" in request]
    monkeypatch.setattr(hub_module, "LARGEST", size)
    directory = download_from_hub("hf://ada/streets")
    file = hub_module.download_file("ada/streets", "config.json", directory.name, largest=10**6)
    hub.die()
    assert hub_module.download_file("ada/streets", "config.json", directory.name) == file
    client(HF_HUB_OFFLINE=True)
    assert hub_module.download_file("ada/streets", "config.json", directory.name) == file
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set and it is not in the cache"):
        hub_module.download_file("ada/streets", "notes", directory.name)


def test_download_that_breaks_off_resumes(hub):
    published(hub)
    hub.cut_downloads = 2
    directory = download_from_hub("hf://ada/streets")
    assert (directory / "model.weights.h5").read_bytes() == (SAVED / "model.weights.h5").read_bytes()
    assert hub.cut_downloads == 0


def test_private_repository_needs_its_owners_token(hub, monkeypatch):
    published(hub).private = True
    for token, error, words in [
        (None, ValueError, "there is no such repository .* or it is private"),
        ("hf_bob", ValueError, "there is no such repository .* or it is private"),
        ("hf_mistyped", PermissionError, "does not know the access token"),
    ]:
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(error, match=f"Cannot download ada/streets: .*{words}.*HF_TOKEN"):
            download_from_hub("hf://ada/streets")
    monkeypatch.setenv("HF_TOKEN", "hf_ada")
    assert download_from_hub("hf://ada/streets").is_dir()


def test_gated_repository(hub):
    published(hub).gated = True
    with pytest.raises(PermissionError, match=f"gated. Ask for access at {hub.url}/ada/streets"):
        download_from_hub("hf://ada/streets")


@pytest.mark.parametrize("revision", ["v2", "0" * 40])
def test_unknown_revision(hub, revision):
    published(hub)
    with pytest.raises(ValueError, match=f"download ada/streets: it has no revision '{revision}'"):
        download_from_hub("hf://ada/streets", revision=revision)


def test_repository_without_a_preset(hub):
    published(hub, files=["config.json"])
    with pytest.raises(ValueError, match="no metadata.json and no model.weights.h5"):
        download_from_hub("hf://ada/streets")


def test_offline_uses_the_cache(hub, client):
    published(hub)
    client(HF_HUB_OFFLINE=True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set and it is not in the cache"):
        download_from_hub("hf://ada/streets")
    assert not hub.requests
    client(HF_HUB_OFFLINE=False)
    first = download_from_hub("hf://ada/streets")
    client(HF_HUB_OFFLINE=True)
    assert download_from_hub("hf://ada/streets") == first
    assert download_from_hub("hf://ada/streets", revision=first.name) == first


def test_without_a_connection_uses_the_cache(hub, client):
    published(hub)
    first = download_from_hub("hf://ada/streets")
    hub.die()
    for address in (hub.url, "http://127.0.0.1:1"):  # the connection breaks off, or is refused
        client(ENDPOINT=address)
        assert download_from_hub("hf://ada/streets") == first
    with pytest.raises(ConnectionError, match="127.0.0.1:1 cannot be reached.*Connection refused"):
        download_from_hub("hf://ada/others")


def test_wrong_weights_are_refused_and_leave_the_cache(hub, tmp_path):
    published(hub)
    with pytest.raises(ValueError, match=f"the SHA-256 {'0' * 64}. Received: {SHA256}"):
        download_from_hub("hf://ada/streets", sha256="0" * 64)
    sizes = [path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert max(sizes) < (SAVED / "model.weights.h5").stat().st_size
    directory = download_from_hub("hf://ada/streets", sha256=SHA256)
    # A file that was damaged in the cache is detected too, and replaced.
    (directory / "model.weights.h5").resolve().write_bytes(b"damaged")
    with pytest.raises(ValueError, match="removed from the cache"):
        download_from_hub("hf://ada/streets", sha256=SHA256)
    download_from_hub("hf://ada/streets", sha256=SHA256)


def test_unwritable_cache(hub, client, tmp_path, monkeypatch):
    published(hub)
    (tmp_path / "file").touch()
    client(HF_HUB_CACHE=str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="cannot be written.*HF_HOME"):
        download_from_hub("hf://ada/streets")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(OSError, match="is full. Free some space.*HF_HOME"):
        download_from_hub("hf://ada/streets")


@pytest.mark.parametrize("name", ["streets", "hf://", "ada/streets/keras", "ada/a b", "ada/a--b"])
def test_invalid_names(model, name):
    for use in (download_from_hub, lambda name: push_to_hub(model, name, token="hf_ada")):
        with pytest.raises(ValueError, match=f"'user/name' or 'hf://user/name'.*Received: {name!r}"):
            use(name)


@pytest.mark.parametrize(
    "token, error, words",
    [
        (None, PermissionError, "needs an access token with write permission, and none was .*HF_TOKEN"),
        ("hf_mistyped", PermissionError, "does not know the access token"),
        ("hf_bob", PermissionError, "don't have the rights to create.*right to write to ada/streets"),
    ],
)
def test_pushing_needs_write_permission(hub, model, token, error, words):
    with pytest.raises(error, match=words):
        push_to_hub(model, "ada/streets", token=token)
    assert not hub.repos


def test_pushing_to_someone_elses_repository(hub, model):
    before = published(hub).branches["main"]
    with pytest.raises(PermissionError, match="don't have write access to ada/streets"):
        push_to_hub(model, "ada/streets", token="hf_bob")
    assert hub.repos["ada/streets"].branches["main"] == before


def test_card_that_the_hub_rejects(hub, model):
    with pytest.raises(ValueError, match='(?s)Cannot publish ada/streets.*"license" must be one of'):
        push_to_hub(model, "ada/streets", token="hf_ada", card="---\nlicense: none\n---\n")
    assert len(list(hub.repos["ada/streets"].history())) == 1


def test_pushing_offline(hub, client, model):
    client(HF_HUB_OFFLINE=True)
    with pytest.raises(ConnectionError, match="Cannot publish ada/streets: HF_HUB_OFFLINE is set."):
        push_to_hub(model, "ada/streets", token="hf_ada")
    assert not hub.requests


def test_no_commit_if_the_hub_dies_during_the_upload(hub, model, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    hub.die_in_upload = True
    with pytest.raises(
        ConnectionError, match="Cannot publish ada/streets: .*broke off.*nothing was published"
    ):
        push_to_hub(model, "ada/streets", token="hf_ada")
    assert hub.dead and len(list(hub.repos["ada/streets"].history())) == 1
    assert not hub.objects
    assert not list(scratch.iterdir())


def test_kaggle(monkeypatch, tmp_path):
    handle = "kaggle://ada/streets/keras/resnet50"
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # as if not installed
    with pytest.raises(ValueError, match="pip install kagglehub"):
        download_from_kaggle(handle)

    asked = []
    stub = types.SimpleNamespace(model_download=lambda name: asked.append(name) or str(SAVED))
    monkeypatch.setitem(sys.modules, "kagglehub", stub)
    assert download_from_kaggle(handle) == SAVED
    assert download_from_kaggle(handle + "/2") == SAVED
    assert asked == ["ada/streets/keras/resnet50", "ada/streets/keras/resnet50/2"]

    stub.model_download = lambda name: str(tmp_path)
    with pytest.raises(ValueError, match="is not a preset of keras-encnet: it has no config.json"):
        download_from_kaggle(handle)
    with pytest.raises(
        ValueError, match="kaggle://user/model/framework/variation.*Received: 'kaggle://ada/streets'"
    ):
        download_from_kaggle("kaggle://ada/streets")

    def refuse(name):
        raise RuntimeError("403 Client Error")

    stub.model_download = refuse
    with pytest.raises(
        ValueError, match="Cannot download kaggle://ada/.*403 Client Error.*kagglehub.login"
    ):
        download_from_kaggle(handle)


def test_model_on_kaggle_loads_by_its_handle(monkeypatch):
    asked = []
    stub = types.SimpleNamespace(model_download=lambda name: asked.append(name) or str(SAVED))
    monkeypatch.setitem(sys.modules, "kagglehub", stub)
    model = EncNet.from_preset("kaggle://ada/streets/keras/resnet50/2")
    assert asked == ["ada/streets/keras/resnet50/2"]
    expected = json.loads(SAVED.with_suffix(".json").read_text())["logits"]
    logits = model.predict(ONE, verbose=0)[0, ::13, ::17]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    # On Kaggle the version is part of the handle.
    with pytest.raises(ValueError, match="`revision` must be None for kaggle://.*Received: '2'"):
        EncNet.from_preset("kaggle://ada/streets/keras/resnet50", revision="2")
    assert len(asked) == 1
