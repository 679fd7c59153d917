"""From a name to a model: releases, backbones and published models, from local servers."""

import dataclasses
import functools
import hashlib
import http.server
import importlib
import io
import shutil
import threading
import zipfile

import numpy as np
import pytest

from golden.files import shapes_of, tiny, tiny_state, write_safetensors
from golden.weights import image, state_dict
from keras_encnet import EncNet
from keras_encnet.presets import backbones, load
from keras_encnet.presets.hub import publish
from keras_encnet.zoo import table

ONE = image(0, 40, 56)[None]
TINY = {"width": 0.125, "num_codes": 4, "head_channels": 64}
download = importlib.import_module("keras_encnet.presets.download")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_ENCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves `directory`; `asked` holds the requests."""
    (tmp_path / "www").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            server.asked.append(self.path)

    handler = functools.partial(Handler, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked, server.directory = [], tmp_path / "www"
        server.url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def serve(server, monkeypatch, name, state):
    """Serves a release of `name` under its real file name, and makes the table point to it."""
    preset = table.find(name)
    file = preset.release["url"].rsplit("/", 1)[1]
    path = write_safetensors(server.directory / file, state)
    release = {"url": server.url + file, "format": preset.release["format"]}
    release["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    moved = dataclasses.replace(preset, release=release)
    monkeypatch.setattr(load, "find", lambda given: moved if table.find(given) == preset else None)
    return path


def ade20k():
    shapes = tiny(shapes_of("mmsegmentation-r18v1c", 150), 150)
    return state_dict(shapes)


@pytest.mark.parametrize("name", ["ade20k_r50", "ADE20K-R50", "ade20k_r50_512x512_160k"])
def test_release_loads_by_name_and_then_from_the_cache(name, cache, server, monkeypatch):
    state = ade20k()
    path = serve(server, monkeypatch, "ade20k_r50", state)
    model = EncNet.from_preset(name)
    assert model.labels[:2] == ("wall", "building") and model.evaluation == {"resize": [2048, 512]}
    kernel = np.asarray(model.get_layer("pixel_logits").get_weights()[0])
    np.testing.assert_array_equal(kernel[0, 0].T, state["decode_head.conv_seg.weight"][:, :, 0, 0])
    assert [one.name for one in (cache / "models").glob("[!.]*")] == [
        f"ade20k_r50_512x512_160k-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    ]
    assert not list((cache / "downloads").glob("*.pth"))

    asked = list(server.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = EncNet.from_preset(name)
    assert server.asked == asked and len(asked) == 1
    np.testing.assert_array_equal(again.predict(ONE, verbose=0), model.predict(ONE, verbose=0))


def test_release_of_pytorch_encoding_in_its_own_format(cache, server, monkeypatch):
    torch = pytest.importorskip("torch")
    state = state_dict(tiny(shapes_of("pytorch-encoding-r50s", 150), 150))
    state |= {"pretrained.fc.weight": np.zeros((10, 64)), "pretrained.fc.bias": np.zeros(10)}
    preset = table.find("ade20k_r50s")
    member, file = preset.release["member"], preset.release["url"].rsplit("/", 1)[1]
    tensors = {key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}
    checkpoint = io.BytesIO()
    torch.save(tensors, checkpoint, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(server.directory / file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, checkpoint.getvalue())
    sha1 = hashlib.sha1(checkpoint.getvalue()).hexdigest()
    release = {**preset.release, "url": server.url + file, "sha1": sha1}
    moved = dataclasses.replace(preset, release=release)
    monkeypatch.setattr(load, "find", lambda name: moved)
    model = EncNet.from_preset("ade20k_r50s")
    assert model.align_corners and model.evaluation["protocol"] == "pytorch-encoding"
    kernel = model.get_layer("pixel_logits").get_weights()[0]
    np.testing.assert_array_equal(kernel[0, 0].T, state["head.conv6.1.weight"][:, :, 0, 0])

    moved.release["sha1"] = "0" * 40
    with pytest.raises(ValueError, match="SHA-1"):
        EncNet.from_preset("ade20k_r50s")


def test_cache_does_not_depend_on_the_caller(cache, server, monkeypatch):
    import keras

    serve(server, monkeypatch, "ade20k_r50", ade20k())

    class Mine(EncNet):
        pass

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert type(Mine.from_preset("ade20k_r50")) is Mine
    finally:
        keras.config.set_dtype_policy("float32")
    # From then on it may be read-only.
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "")))
    assert EncNet.from_preset("ade20k_r50").dtype_policy.name == "float32"


def test_more_classes_than_the_ignore_index(cache, server, monkeypatch):
    serve(server, monkeypatch, "ade20k_r50", ade20k())
    assert EncNet.from_preset("ade20k_r50", num_classes=300).ignore_index == 65535


def test_release_for_another_task(cache, server, monkeypatch):
    serve(server, monkeypatch, "ade20k_r50", ade20k())
    model = EncNet.from_preset("ade20k_r50", num_classes=3, labels=["sky", "road", "car"])
    assert model.labels == ("sky", "road", "car") and model.predict(ONE, verbose=0).shape[-1] == 3


def test_damaged_release_is_refused_and_leaves_nothing(cache, server, monkeypatch):
    path = serve(server, monkeypatch, "ade20k_r50", ade20k())
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256.*damaged, or not the published file"):
        EncNet.from_preset("ade20k_r50")
    assert not [one for one in cache.rglob("*") if one.is_file() and one.suffix != ".lock"]


def test_release_is_pinned_at_the_first_conversion(cache, server, monkeypatch):
    path = serve(server, monkeypatch, "ade20k_r50", ade20k())
    EncNet.from_preset("ade20k_r50")
    release = load.find("ade20k_r50").release
    (pin,) = (cache / "models").glob("*.sha256")
    full = hashlib.sha256(path.read_bytes()).hexdigest()
    assert pin.read_text() == full and pin.name.startswith(".ade20k_r50_512x512_160k-")

    # Another file whose first eight digits are the same: eight digits of nothing, in this test.
    (model,) = (cache / "models").glob("[!.]*")
    shutil.rmtree(model)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(download, "_verify", lambda *_: None)
    with pytest.raises(ValueError, match=f"must have the SHA-256 {full}.*first used") as caught:
        EncNet.from_preset("ade20k_r50")
    assert release["url"] in str(caught.value) and str(pin) in str(caught.value)
    assert not list((cache / "downloads").glob("[!.]*")) and not model.exists()
    pin.unlink()
    assert EncNet.from_preset("ade20k_r50").num_classes == 150


def test_release_that_cannot_be_converted_leaves_no_preset(cache, server, monkeypatch):
    state = ade20k()
    del state["decode_head.conv_seg.bias"]
    serve(server, monkeypatch, "ade20k_r50", state)
    with pytest.raises(ValueError, match="Missing: decode_head.conv_seg.bias"):
        EncNet.from_preset("ade20k_r50")
    assert not list((cache / "models").glob("[!.]*"))


def test_offline_and_not_in_the_cache(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        EncNet.from_preset("ade20k_r101")


def test_releases_have_no_revisions(cache):
    with pytest.raises(ValueError, match="`revision` must be None for ade20k_r101.*Received: 'main'"):
        EncNet.from_preset("ade20k_r101", revision="main")


def test_model_converted_before_it_was_published_is_used(cache, server, monkeypatch):
    serve(server, monkeypatch, "ade20k_r50", ade20k())
    EncNet.from_preset("ade20k_r50")
    moved = load.find("ade20k_r50")
    hub = {"repo": "nobody/nothing", "revision": "0" * 40, "sha256": "0" * 64}
    monkeypatch.setattr(load, "find", lambda name: dataclasses.replace(moved, hub=hub))
    monkeypatch.setattr(load, "download_from_hub", lambda *_, **__: pytest.fail("asked the Hub"))
    assert EncNet.from_preset("ade20k_r50").num_classes == 150


def test_published_model_comes_from_the_hub(cache, hub, tmp_path, monkeypatch):
    model = EncNet("resnet18", 3, **TINY)
    model.save_to_preset(tmp_path / "mine")
    files = {path.name: path for path in (tmp_path / "mine").iterdir()}
    commit = publish(files, "ada/encnet_ade20k_r50", token="hf_ada").rsplit("/", 1)[1]
    weights = hashlib.sha256(files["model.weights.h5"].read_bytes()).hexdigest()
    pinned = {"repo": "ada/encnet_ade20k_r50", "revision": commit, "sha256": weights}
    preset = table.find("ade20k_r50")

    monkeypatch.setattr(load, "find", lambda name: dataclasses.replace(preset, hub=pinned))
    again = EncNet.from_preset("ade20k_r50")
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # Commits other than the table's may have other weights.
    EncNet.from_preset("ade20k_r50", revision="main")
    pinned["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="SHA-256"):
        EncNet.from_preset("ade20k_r50")


# === Backbones ===


def backbone_state():
    state = tiny_state("mmsegmentation-r18v1c")
    own = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    return own | {"fc.weight": np.zeros((10, 64), "float32"), "fc.bias": np.zeros(10, "float32")}


@pytest.mark.parametrize("source", ["imagenet", "resnet18_v1c_imagenet"])
def test_training_starts_from_imagenet(source, cache, server, monkeypatch):
    record = table.find_backbone("resnet18_v1c_imagenet")
    file = record.release["url"].rsplit("/", 1)[1]
    path = write_safetensors(server.directory / file, backbone_state())
    release = {"url": server.url + file, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    moved = dataclasses.replace(record, release=release, size_mb=1)
    for function in ("imagenet_backbone", "find_backbone"):
        monkeypatch.setattr(backbones, function, lambda name: moved)
    model = EncNet("resnet18", 4, backbone_weights=source, **TINY)
    kernel = np.asarray(model.backbone.get_layer("stem_conv1").get_weights()[0])
    expected = backbone_state()["stem.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)
    EncNet("resnet18", 4, backbone_weights=source, **TINY)
    assert len(server.asked) == 1
    with pytest.raises(ValueError, match="backbone 'resnet34' must be .*Received:.* for 'resnet18'"):
        EncNet("resnet34", 4, backbone_weights=source, **TINY)


def test_weights_of_timm_come_from_the_hub(cache, hub, tmp_path, monkeypatch):
    # timm names its layers as PyTorch-Encoding does.
    state = tiny_state("pytorch-encoding-r50s")
    own = {k.removeprefix("pretrained."): v for k, v in state.items() if k.startswith("pretrained.")}
    path = write_safetensors(tmp_path / "model.safetensors", own)
    publish({"model.safetensors": path}, "ada/resnet50s", token="hf_ada")
    record = table.find_backbone("resnet50s.gluon_in1k")
    assert record.hub == {"repo": "timm/resnet50s.gluon_in1k", "file": "model.safetensors"}
    moved = dataclasses.replace(record, hub={**record.hub, "repo": "ada/resnet50s"})
    monkeypatch.setattr(backbones, "find_backbone", lambda name: moved)
    model = EncNet("resnet50s", 4, backbone_weights="resnet50s.gluon_in1k", **TINY)
    kernel = np.asarray(model.backbone.get_layer("stem_conv3").get_weights()[0])
    np.testing.assert_array_equal(kernel, own["conv1.6.weight"].transpose(2, 3, 1, 0))


@pytest.fixture
def timm(cache, hub, tmp_path, monkeypatch):
    """A function that publishes weights and makes the table point to them, with `changes`."""
    state = tiny_state("pytorch-encoding-r50s")
    own = {k.removeprefix("pretrained."): v for k, v in state.items() if k.startswith("pretrained.")}
    record = table.find_backbone("resnet50s.gluon_in1k")

    def publish_weights(number=0.0, size_mb=1, **changes):
        own["conv1.0.weight"].flat[0] = number
        path = write_safetensors(tmp_path / "model.safetensors", own)
        address = publish({"model.safetensors": path}, "ada/resnet50s", token="hf_ada")
        place = {**record.hub, "repo": "ada/resnet50s", **changes}
        moved = dataclasses.replace(record, hub=place, size_mb=size_mb)
        monkeypatch.setattr(backbones, "find_backbone", lambda name: moved)
        return address.rsplit("/", 1)[1], hashlib.sha256(path.read_bytes()).hexdigest()

    return publish_weights


def load_timm():
    return EncNet("resnet50s", 4, backbone_weights="resnet50s.gluon_in1k", **TINY)


def test_weights_of_timm_are_pinned_at_the_first_download(timm, cache):
    _, first = timm(0.0)
    load_timm()
    (pin,) = (cache / "backbones").glob("*.sha256")
    assert (pin.name, pin.read_text()) == (".resnet50s.gluon_in1k.sha256", first)
    load_timm()
    _, second = timm(1.0)
    message = f"hf://ada/resnet50s must have the SHA-256 {first}, as.*Received: {second}.*delete {pin}"
    with pytest.raises(ValueError, match=message):
        load_timm()
    pin.unlink()
    load_timm()
    assert pin.read_text() == second


def test_weights_of_timm_whose_revision_and_checksum_are_known(timm, cache):
    commit, sha256 = timm(0.0)
    timm(1.0, revision=commit, sha256=sha256)
    load_timm()
    assert not (cache / "backbones").exists()
    timm(1.0, sha256=sha256)
    with pytest.raises(ValueError, match=f"model.safetensors of hf://ada/.* SHA-256 {sha256}"):
        load_timm()


def test_weights_of_timm_that_are_too_large(timm):
    timm(size_mb=0.1)
    with pytest.raises(ValueError, match="must have at most 300000 bytes. Received: "):
        load_timm()


def test_unknown_weights():
    with pytest.raises(ValueError, match="no ImageNet weights for the backbone 'resnet34'"):
        EncNet("resnet34", 4, backbone_weights="imagenet", **TINY)
    with pytest.raises(ValueError, match="must be a file, a directory.*Received: 'nowhere.pth'"):
        EncNet("resnet34", 4, backbone_weights="nowhere.pth", **TINY)


# === Half precision ===


def test_kernels_stored_in_half_precision(tmp_path):
    model = EncNet("resnet18", 3, **TINY)
    model.save_to_preset(tmp_path / "full")
    model.save_to_preset(tmp_path / "half", dtype="float16")
    sizes = [(tmp_path / d / "model.weights.h5").stat().st_size for d in ("full", "half")]
    assert sizes[1] < 0.75 * sizes[0]
    again = EncNet.from_preset(tmp_path / "half")
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        expected = old.astype("float16").astype("float32") if old.ndim > 1 else old
        assert new.dtype == "float32"
        np.testing.assert_array_equal(new, expected)
    with pytest.raises(ValueError, match="`dtype` must be .*Received: 'int8'"):
        model.save_to_preset(tmp_path / "half", dtype="int8")

    gate = model.get_layer("gate")
    gate.kernel.assign(np.full(gate.kernel.shape, 1e5, "float32"))
    with pytest.raises(ValueError, match="over 65504"):
        model.save_to_preset(tmp_path / "half", dtype="float16")
    assert EncNet.from_preset(tmp_path / "half") and len(list(tmp_path.iterdir())) == 2
