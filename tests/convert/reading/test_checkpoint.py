"""Reading of intact checkpoints: state dicts and metadata as PyTorch reads them."""

import importlib.util
import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import handmade as make
import make_checkpoints
import numpy as np
import pytest

from keras_encnet.convert.reading import budget
from keras_encnet.convert.reading.checkpoint import read_checkpoint

SAVED = Path(__file__).parent / "saved"
ORACLES = Path(__file__).parents[4] / "shared" / "oracle" / "oracles.py"

# Two tensors, written by hand: the float32 values 1, 2, -0.5 and the int64 value 258.
NUMBERS = bytes.fromhex("0000803f 00000040 000000bf")
COUNT = bytes.fromhex("0201000000000000")
BODY = make.dict_of(
    w=make.tensor("7", 3, (3,), (1,)), n=make.tensor("8", 1, (), (), kind="LongStorage")
)
STORAGES = [("7", 3, NUMBERS), ("8", 1, COUNT)]
HEADER = {
    "__metadata__": {"format": "pt"},
    "n": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
    "w": {"dtype": "F32", "shape": [3], "data_offsets": [8, 20]},
}


def write_small(path, kind):
    """Writes the two tensors in one of the formats."""
    if kind == "legacy":
        path.write_bytes(make.legacy(BODY, STORAGES))
    elif kind == "zip":
        make.torch_zip(path, BODY, STORAGES)
    elif kind == "compressed":
        make.torch_zip(path, BODY, STORAGES, compression=zipfile.ZIP_DEFLATED)
    elif kind == "zip around legacy":
        make.zipped(path, {"net.pth": make.legacy(BODY, STORAGES), "__MACOSX/._net.pth": b"x"})
    elif kind == "zip around zip":
        make.zipped(path, {"net.pth": make.torch_zip(io.BytesIO(), BODY, STORAGES).getvalue()})
    else:
        path.write_bytes(make.safetensors(HEADER, COUNT + NUMBERS))


KINDS = ["legacy", "zip", "compressed", "zip around legacy", "zip around zip", "safetensors"]


def assert_same(state, expected):
    """Compares tensors bit for bit; `expected` maps names to (dtype, array)."""
    assert list(state) == list(expected)
    for key, (dtype, array) in expected.items():
        tensor, got = state[key], np.asarray(state[key])
        assert (tensor.dtype, tensor.shape) == (dtype, array.shape), key
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes()), key
        assert got.flags.c_contiguous and got.flags.writeable, key


def arrays(state):
    """A state dict of PyTorch in the form that `assert_same` expects."""
    expected = {}
    for key, tensor in state.items():
        exact = tensor.detach().float() if str(tensor.dtype) == "torch.bfloat16" else tensor.detach()
        expected[key] = str(tensor.dtype).removeprefix("torch."), exact.numpy()
    return expected


@pytest.fixture(scope="module")
def expected():
    """What PyTorch read from the saved checkpoints: file → name → (dtype, array)."""
    files = {}
    with np.load(SAVED / "expected.npz") as saved:
        for full in saved.files:
            stem, dtype, key = full.split("/", 2)
            files.setdefault(stem, {})[key] = dtype, saved[full]
    return files


@pytest.mark.parametrize("stem", ["kinds_legacy", "kinds_zip", "mmseg_run", "runner"])
def test_saved_checkpoints_have_the_values_that_pytorch_read(stem, expected):
    assert_same(read_checkpoint(SAVED / f"{stem}.pth").state, expected[stem])


@pytest.mark.parametrize("stem", ["mmseg_run", "runner"])
def test_metadata_of_training_runs(stem):
    meta = read_checkpoint(SAVED / f"{stem}.pth").meta
    assert meta["dataset_meta"] == {
        "classes": tuple(make_checkpoints.CLASSES),
        "palette": make_checkpoints.PALETTE,
    }
    assert meta["cfg"].count("model = dict(type=") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_written_by_hand(tmp_path, kind):
    write_small(tmp_path / "any.name", kind)
    checkpoint = read_checkpoint(tmp_path / "any.name")
    assert set(checkpoint.state) == {"w", "n"}
    weights, count = checkpoint.state["w"], checkpoint.state["n"]
    assert (weights.shape, weights.dtype, weights.numpy().tolist()) == ((3,), "float32", [1, 2, -0.5])
    assert (count.shape, count.dtype, count.numpy().shape, int(count.numpy())) == ((), "int64", (), 258)
    assert checkpoint.meta == ({"format": "pt"} if kind == "safetensors" else {})


def test_the_dtypes_of_safetensors(tmp_path):
    # The bits of the number 1 in each dtype.
    ones = {
        "F64": "000000000000f03f", "F32": "0000803f", "F16": "003c", "BF16": "803f",
        "I64": "0100000000000000", "I32": "01000000", "I16": "0100", "I8": "01",
        "U64": "0100000000000000", "U32": "01000000", "U16": "0100", "U8": "01", "BOOL": "01",
    }  # fmt: skip
    header, data = {}, b""
    for dtype, bits in ones.items():
        end = len(data) + len(bits) // 2
        header[dtype] = {"dtype": dtype, "shape": [1, 1], "data_offsets": [len(data), end]}
        data += bytes.fromhex(bits)
    (tmp_path / "ones").write_bytes(make.safetensors(header, data))
    state = read_checkpoint(tmp_path / "ones").state
    assert {key: tensor.numpy().tolist() for key, tensor in state.items()} == dict.fromkeys(ones, [[1]])
    names = {"F64": "float64", "BF16": "bfloat16", "I8": "int8", "U32": "uint32", "BOOL": "bool"}
    assert {key: state[key].dtype for key in names} == names
    assert state["BF16"].numpy().dtype == np.float32 and state["BOOL"].numpy().dtype == np.bool_


def test_views_written_by_hand(tmp_path):
    data = np.arange(6, dtype="<f4").tobytes()
    body = make.dict_of(
        transposed=make.tensor("0", 6, (3, 2), (1, 3)),
        offset=make.tensor("0", 6, (2,), (2,), offset=1),
        repeated=make.tensor("0", 6, (2, 3), (0, 2), offset=1),
        part=make.tensor("0", 6, (2,), (1,), offset=1, view=("1", 3, 3)),
    )
    (tmp_path / "views").write_bytes(make.legacy(body, [("0", 6, data)]))
    state = read_checkpoint(tmp_path / "views").state
    assert {key: tensor.numpy().tolist() for key, tensor in state.items()} == {
        "transposed": [[0, 3], [1, 4], [2, 5]],
        "offset": [1, 3],
        "repeated": [[1, 3, 5], [1, 3, 5]],
        "part": [4, 5],  # a view of a view of a storage, from before PyTorch 0.4
    }


def test_a_file_from_a_big_endian_machine(tmp_path):
    storages = [("7", 3, NUMBERS[::-1]), ("8", 1, COUNT[::-1])]
    make.torch_zip(tmp_path / "big.pth", BODY, storages, byteorder="big")
    state = read_checkpoint(tmp_path / "big.pth").state
    assert state["w"].numpy().tolist() == [-0.5, 2, 1] and state["n"].numpy() == 258
    assert state["w"].numpy().dtype.isnative


def numpy_array(array):
    """The opcodes of an array that NumPy pickles with protocol 2."""
    return pickle.dumps(array, 2)[2:-1]


@pytest.mark.parametrize("value", [0, 0.1])
def test_large_arrays_of_numpy(value, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "FLOOR", 2**16)  # as if the arrays were far larger
    array = np.full(10**6, value, "float32")
    body = make.dict_of(state_dict=make.dict_of(w=numpy_array(array)))
    for path in (make.torch_zip(tmp_path / "x.pth", body), tmp_path / "y.pth"):
        if not path.exists():
            path.write_bytes(make.legacy(body))
        np.testing.assert_array_equal(read_checkpoint(path).state["w"].numpy(), array)


def test_metadata_holds_only_plain_values(tmp_path):
    hub = make.call(make.name("mmengine.logging", "Hub"), make.value(3)) + make.dict_of(a=b"N") + b"b"
    method = make.call(make.name("__builtin__", "getattr"), hub, make.value("min"))
    meta = make.dict_of(
        config=make.value("model = 1"),
        CLASSES=make.value(("a", "b")),
        PALETTE=numpy_array(np.array([[1, 2, 3], [4, 5, 6]], "uint8")),
        big_endian=numpy_array(np.array([1.5, -2], ">f8")),
        fortran=numpy_array(np.asfortranarray(np.arange(6).reshape(2, 3))),
        number=numpy_array(np.float32(0.25)),
        text=numpy_array(np.array(["ab", "ç"])),
        hub=hub,
        method=method,
        list=make.tuple_of(hub, make.value(1)),
        device=make.call(make.name("torch", "device"), make.value("cpu")),
        size=make.call(make.name("torch", "Size"), make.tuple_of(make.value((2, 3)))[1:-1]),
        bytes=make.call(make.name("_codecs", "encode"), make.value("é"), make.value("latin1")),
        set=make.call(make.name("__builtin__", "set"), make.value([1, 2])),
        counter=make.call(make.name("collections", "Counter"), make.value({"a": 2})),
        default=make.call(make.name("collections", "defaultdict"), make.name("__builtin__", "list")),
    )
    body = make.dict_of(meta=meta, state_dict=BODY)
    (tmp_path / "meta.pth").write_bytes(make.legacy(body, STORAGES))
    meta = read_checkpoint(tmp_path / "meta.pth").meta
    assert meta.pop("PALETTE").tolist() == [[1, 2, 3], [4, 5, 6]]
    assert meta.pop("big_endian").tolist() == [1.5, -2]
    assert meta.pop("fortran").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert meta.pop("text").tolist() == ["ab", "ç"]
    assert meta == {
        "config": "model = 1",
        "CLASSES": ("a", "b"),
        "number": 0.25,
        "list": (None, 1),
        "size": (2, 3),
        "bytes": b"\xe9",
        "set": {1, 2},
        "counter": {"a": 2},
        "default": {},
    }


WRAPPED = {
    "state_dict": make.dict_of(state_dict=BODY, epoch=make.value(3)),
    "model": make.dict_of(optimizer=make.dict_of(x=BODY), model=BODY, ema_state_dict=BODY),
    "model.state_dict": make.dict_of(model=make.dict_of(state_dict=BODY, meta=b"}")),
    "with a counter": BODY + make.dict_of(step=make.value(9))[1:],
    "Python 2": make.call(
        make.name("collections", "OrderedDict"),
        b"]((" + make.value("w") + make.tensor("7", 3, (3,), (1,)) + b"l("
        + make.value("n") + make.tensor("8", 1, (), (), kind="LongStorage") + b"le",
    ),
    "arrays": make.dict_of(
        w=numpy_array(np.array([1, 2, -0.5], "f4")), n=make.tensor("8", 1, (), (), kind="LongStorage")
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", WRAPPED)
def test_nested_state_dicts_are_found(tmp_path, how):
    body = WRAPPED[how]
    (tmp_path / "x.pth").write_bytes(make.legacy(body, STORAGES[1:] if how == "arrays" else STORAGES))
    state = read_checkpoint(tmp_path / "x.pth").state
    assert list(state) == ["w", "n"]
    assert state["w"].numpy().tolist() == [1, 2, -0.5] and state["n"].numpy() == 258


def test_the_prefix_of_parallel_training_is_removed(tmp_path):
    weight = make.tensor("7", 3, (3,), (1,))
    body = make.dict_of(**{"module.a.module.b": weight, "module.module.c": weight, "steps": weight})
    (tmp_path / "x.pth").write_bytes(make.legacy(body, STORAGES[:1]))
    assert list(read_checkpoint(tmp_path / "x.pth").state) == ["a.module.b", "c", "steps"]
    (tmp_path / "y.pth").write_bytes(
        make.legacy(make.dict_of(**{"module.a": weight, "a": weight}), STORAGES[:1])
    )
    with pytest.raises(ValueError, match=r"y\.pth holds 'a' with and without the prefix `module\.`"):
        read_checkpoint(tmp_path / "y.pth")


def write_large(path, kind, size=2**24):
    """Writes a checkpoint with a tensor of `size` bytes, as a hole in the file, and a small one."""
    count = size // 4
    if kind == "legacy":
        body = make.dict_of(
            large=make.tensor("0", count, (count,), (1,)), small=make.tensor("1", 3, (3,), (1,))
        )
        head = make.legacy(body, [("0", count, b""), ("1", 3, b"")])[:-16]
        head, tail = head + struct.pack("<q", count), struct.pack("<q", 3) + NUMBERS
    else:
        header = {
            "large": {"dtype": "F32", "shape": [count], "data_offsets": [0, size]},
            "small": {"dtype": "F32", "shape": [3], "data_offsets": [size, size + 12]},
        }
        head, tail = make.safetensors(header, b""), NUMBERS
    with open(path, "wb") as file:
        file.write(head)
        file.seek(size, 1)
        file.write(tail)


@pytest.mark.parametrize("kind", ["legacy", "safetensors"])
def test_only_accessed_tensors_take_memory(tmp_path, kind):
    write_large(tmp_path / "large", kind)
    tracemalloc.start()
    try:
        state = read_checkpoint(tmp_path / "large").state
        assert state["small"].numpy().tolist() == [1, 2, -0.5]
        assert tracemalloc.get_traced_memory()[1] < 2**20
        assert not state["large"].numpy().any()
        assert tracemalloc.get_traced_memory()[1] < 2**24 + 2**20
    finally:
        tracemalloc.stop()


def test_a_file_that_becomes_shorter_is_an_error(tmp_path):
    write_small(tmp_path / "x.pth", "legacy")
    state = read_checkpoint(tmp_path / "x.pth").state
    with open(tmp_path / "x.pth", "r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"x\.pth became shorter"):
        state["w"].numpy()


def test_numpy_array_protocol(tmp_path):
    write_small(tmp_path / "x.pth", "legacy")
    tensor = read_checkpoint(tmp_path / "x.pth").state["w"]
    assert np.asarray(tensor, "float64").tolist() == [1, 2, -0.5] and np.shape(tensor) == (3,)
    with pytest.raises(ValueError, match="copy"):
        tensor.__array__(copy=False)


# Comparison with torch.load.


def save_and_load(path, state, **options):
    torch = pytest.importorskip("torch")
    torch.save(state, path, **options)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zip_format", [False, True])
def test_every_kind_of_tensor_matches_pytorch(tmp_path, zip_format, protocol):
    pytest.importorskip("torch")
    path = tmp_path / "kinds.pth"
    state = make_checkpoints.every_kind()
    options = {"_use_new_zipfile_serialization": zip_format, "pickle_protocol": protocol}
    if protocol == 4:  # `weights_only` supports protocol 2 only
        import torch

        torch.save(state, path, **options)
        loaded = torch.load(path, weights_only=False)
    else:
        loaded = save_and_load(path, state, **options)
    assert_same(read_checkpoint(path).state, arrays(loaded))


@pytest.mark.parametrize("zip_format", [False, True])
def test_nested_checkpoints_match_pytorch(tmp_path, zip_format):
    torch = pytest.importorskip("torch")
    model = torch.nn.DataParallel(make_checkpoints.small_model()["backbone"])
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    content = {"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    path = tmp_path / "x.pth"
    loaded = save_and_load(path, content, _use_new_zipfile_serialization=zip_format)
    plain = {key.removeprefix("module."): value for key, value in loaded["model"].items()}
    assert_same(read_checkpoint(path).state, arrays(plain))


def test_newer_dtypes_match_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    types = torch.uint16, torch.uint32, torch.uint64, torch.complex64
    state = {str(dtype): torch.arange(6).to(dtype).reshape(2, 3).T[1:] for dtype in types}
    state["eight"] = torch.ones(2).to(torch.float8_e5m2)
    loaded = save_and_load(tmp_path / "x.pth", state)
    assert str(loaded.pop("eight").dtype) == "torch.float8_e5m2"
    read = read_checkpoint(tmp_path / "x.pth").state
    assert read["eight"].dtype == "float8_e5m2"
    with pytest.raises(ValueError, match="float8_e5m2, which NumPy lacks"):
        read.pop("eight").numpy()
    assert_same(read, arrays(loaded))


def test_a_pickled_model_is_an_error(tmp_path):
    torch = pytest.importorskip("torch")
    for zip_format in (False, True):
        torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth", _use_new_zipfile_serialization=zip_format)
        with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear"):
            read_checkpoint(tmp_path / "x.pth")


# Files of the two code bases.


@pytest.fixture(scope="module")
def oracles():
    pytest.importorskip("torch")
    if not ORACLES.is_file():
        pytest.skip("oracles.py is not in ../shared/oracle")
    spec = importlib.util.spec_from_file_location("oracles", ORACLES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("zipped", [False, True])
def test_mmsegmentation_releases(tmp_path, oracles, zipped):
    import torch

    path = tmp_path / "release.pth"
    args = make_checkpoints.CONFIG, make_checkpoints.CLASSES, make_checkpoints.PALETTE
    oracles.mmseg_release(path, oracles.fill(make_checkpoints.small_model()), *args, zipped=zipped)
    checkpoint = read_checkpoint(path)
    loaded = torch.load(path, weights_only=True)
    assert_same(checkpoint.state, arrays(loaded["state_dict"]))
    assert checkpoint.meta == loaded["meta"]
    assert checkpoint.meta["config"] == args[0].pretty_text and checkpoint.meta["CLASSES"] == args[1]


def test_mmsegmentation_runs(tmp_path, oracles):
    pytest.importorskip("mmengine")
    import torch

    path = tmp_path / "run.pth"
    args = make_checkpoints.CONFIG, make_checkpoints.CLASSES, make_checkpoints.PALETTE
    oracles.mmseg_run(path, oracles.fill(make_checkpoints.small_model()), *args)
    loaded = torch.load(path, weights_only=False)
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.state, arrays(loaded["state_dict"]))
    assert checkpoint.meta == loaded["meta"]


def test_pytorch_encoding_releases(tmp_path, oracles):
    import torch

    path = tmp_path / "encnet.zip"
    model = oracles.fill(make_checkpoints.small_model())
    oracles.pytorch_encoding_release(str(path), model)
    with zipfile.ZipFile(path) as archive:
        loaded = torch.load(io.BytesIO(archive.read("encnet.pth")), weights_only=True)
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.state, arrays(loaded))
    assert "pretrained.fc.weight" in checkpoint.state and checkpoint.meta == {}
