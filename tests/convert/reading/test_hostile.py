"""Damaged and malicious files."""

import pickle
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import handmade as make
import numpy as np
import pytest
from test_checkpoint import BODY, COUNT, HEADER, KINDS, NUMBERS, SAVED, STORAGES, write_small

from keras_encnet.convert.reading import unpickle
from keras_encnet.convert.reading.checkpoint import read_checkpoint

DAMAGED = "is truncated or damaged"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_truncated_at_any_byte_is_an_error(tmp_path, kind):
    path = tmp_path / "x.pth"
    write_small(path, kind)
    read_checkpoint(path)
    for size in reversed(range(path.stat().st_size)):
        with open(path, "r+b") as file:
            file.truncate(size)
        with pytest.raises(ValueError, match=rf"x\.pth .*{DAMAGED}"):
            read_checkpoint(path)


@pytest.mark.parametrize("source", ["kinds_legacy", "kinds_zip", "runner", *KINDS])
def test_a_changed_byte_gives_an_error_or_a_value(tmp_path, source):
    path = tmp_path / "x.pth"
    if source in KINDS:
        write_small(path, source)
    else:
        path.write_bytes((SAVED / f"{source}.pth").read_bytes())
    original = path.read_bytes()
    random = np.random.default_rng(0)
    for position in random.permutation(len(original))[:120]:
        changed = bytearray(original)
        changed[position] ^= 1 << random.integers(8)
        path.write_bytes(changed)
        try:
            for tensor in read_checkpoint(path).state.values():
                np.asarray(tensor)
        except ValueError as error:
            assert len(str(error)) < 1000


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "x.pth")


OTHERS = {
    "empty": (b"", "Received: 0 bytes"),
    "web page": (b"<!DOCTYPE html><html>", "neither a PyTorch checkpoint nor"),
    "tar": (b"sys_info".ljust(257, b"\0") + b"ustar\x0000" + bytes(400), "tar file.*PyTorch 0.1"),
    "plain pickle": (pickle.dumps({"a": 1}, 2), "not one that `torch.save` wrote"),
    "other protocol": (pickle.dumps(make.MAGIC, 2) + pickle.dumps(1002, 2), "protocol 1002"),
    "no mapping": (make.legacy(make.value([1, 2])), "holds a list, not a state dict"),
    "no tensors": (
        make.legacy(make.value({"lr": 1, "steps": 2})),
        r"must hold a state dict.*Received: 2 entries \('lr', 'steps'\) without a tensor",
    ),
    "number keys": (
        make.legacy(b"}(" + make.value(3) + make.tensor("7", 3, (3,), (1,)) + b"u", STORAGES[:1]),
        "keys that are not strings",
    ),
    "itself": (make.legacy(b"}qx(" + make.value("model") + b"hxu"), "nested dicts but no state dict"),
    "complete model": (
        make.legacy(make.tuple_of(make.value("module"), b"N", make.value("x.py"), b"N") + b"Q"),
        "holds a complete model",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_files_of_other_formats_are_errors_with_a_reason(tmp_path, what):
    data, message = OTHERS[what]
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(ValueError, match=rf"(?s)x\.pth .*{message}"):
        read_checkpoint(tmp_path / "x.pth")


# Pickles that ask for more than weights need, next to valid weights. None of it may be executed.

TOUCHED = "/tmp/a-file-that-must-not-be-made"
SYSTEM = make.call(make.name("os", "system"), make.value(f"touch {TOUCHED}"))
INERT = make.name("mmengine.logging", "Hub")
STRING_GLOBAL = make.value("posix") + make.value("system") + b"\x93"
GETATTR = make.name("__builtin__", "getattr")

FORBIDDEN = {
    "os.system": (SYSTEM, r"asks for 'os\.system'"),
    "not called": (make.name("os", "system"), r"asks for 'os\.system'"),
    "discarded": (make.tuple_of(make.tuple_of(SYSTEM)) + b"0" + b"N", r"asks for 'os\.system'"),
    "by stack": (STRING_GLOBAL, r"asks for 'posix\.system'"),
    "by INST": (b"(" + make.value("x") + b"ios\nsystem\n", r"asks for 'os\.system'"),
    "eval": (make.call(make.name("builtins", "eval"), make.value("1")), r"asks for 'builtins\.eval'"),
    "eval of Python 2": (make.name("__builtin__", "eval"), r"asks for '__builtin__\.eval'"),
    "import": (make.name("importlib", "import_module"), "asks for 'importlib"),
    "numpy function": (make.name("numpy", "load"), r"asks for 'numpy\.load'"),
    "numpy's exec": (make.name("numpy.testing._private.utils", "runstring"), "asks for 'numpy"),
    "torch function": (make.name("torch.hub", "load"), r"asks for 'torch\.hub\.load'"),
    "torch.load": (make.name("torch.serialization", "load"), "asks for 'torch"),
    "dotted": (make.name("collections", "OrderedDict.__init__"), "asks for 'collections"),
    "like mmengine": (make.name("mmengine_evil", "run"), "asks for 'mmengine_evil"),
    "codecs": (make.name("_codecs", "lookup"), r"asks for '_codecs\.lookup'"),
    "other encoding": (
        make.call(make.name("_codecs", "encode"), make.value("x"), make.value("rot13")),
        "encodes with 'rot13'",
    ),
    "getattr of text": (make.call(GETATTR, make.value("x"), make.value("format")), "getattr of str"),
    "getattr of a class": (
        make.call(GETATTR, make.name("collections", "OrderedDict"), make.value("__init__")),
        r"getattr of collections\.OrderedDict",
    ),
    "getattr of getattr": (make.call(GETATTR, GETATTR, make.value("__self__")), "getattr of builtins"),
    "BUILD on a class": (
        make.name("collections", "OrderedDict") + make.tuple_of(b"N", make.value({"a": 1})) + b"b",
        "sets attributes of a Global",
    ),
    "BUILD on a list": (b"]" + make.value({"a": 1}) + b"b", "sets attributes of a list"),
    "call of a type": (make.call(make.name("builtins", "int"), b"N"), r"calls 'builtins\.int'"),
    "call of a value": (make.call(make.value("x")), f"{DAMAGED} .*call of a str"),
    "extension": (b"\x82\1", "copyreg extension"),
    "buffer": (b"\x97", DAMAGED),
    "bytes": (make.call(make.name("builtins", "bytes"), make.value(2**40)), DAMAGED),
    "bytearray": (make.call(make.name("builtins", "bytearray"), make.value(2**40)), DAMAGED),
    "list of a range": (
        make.call(
            make.name("builtins", "list"), make.call(make.name("builtins", "range"), make.value(2**40))
        ),
        DAMAGED,
    ),
    "BYTEARRAY8": (b"\x96" + struct.pack("<Q", 2**40), DAMAGED),
    "BINBYTES8": (b"\x8e" + struct.pack("<Q", 2**62), DAMAGED),
    "BINUNICODE": (b"X" + struct.pack("<I", 2**31), DAMAGED),
    "LONG4": (b"\x8b" + struct.pack("<i", 2**30), DAMAGED),
    "FRAME": (b"\x95" + struct.pack("<Q", 2**63) + b"N" * 9 + b"h\xee", DAMAGED),
    "deep key": (b"}" + b")" + b"\x85" * 20_000 + b"Ns", "a tuple as a key"),
    "billion laughs as a key": (b"}" + b")" + b"2\x86" * 100 + b"Ns", "a tuple as a key"),
    "list as a key": (b"}]Ns", "a list as a key"),
    "tuple in a set": (b"\x8f()\x85\x90", "a tuple as a key"),
    "copies": (
        make.name("_codecs", "encode") + b"q\1" + make.value("x" * 10**6)
        + make.value("latin1") + b"\x86q\2" + b"h\1h\2R" * 1000,
        "copies the same data",
    ),
    "array": (
        make.call(make.name("numpy.core.multiarray", "_reconstruct"))
        + make.tuple_of(
            make.value(1), make.value((2**20, 2**20)),
            make.call(make.name("numpy", "dtype"), make.value("f8")), b"\x89", make.value("x"),
        ) + b"b",
        DAMAGED,
    ),
    "long name": (make.name("x" * 10**5, "y"), r"asks for 'x{77}\.\.\.'"),
}  # fmt: skip


@pytest.mark.parametrize("where", ["legacy", "zip"])
@pytest.mark.parametrize("what", FORBIDDEN)
def test_forbidden_pickles(tmp_path, what, where):
    part, message = FORBIDDEN[what]
    body = make.dict_of(optimizer=b"](" + part + b"e", state_dict=BODY)
    path = tmp_path / "x.pth"
    if where == "legacy":
        path.write_bytes(make.legacy(body, STORAGES))
    else:
        make.torch_zip(path, body, STORAGES)
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(ValueError, match=rf"x\.pth .*{message}") as caught:
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 60
    assert len(str(caught.value)) < 1000 and not Path(TOUCHED).exists()


HARMLESS = {
    "what mmengine saves": (
        make.call(GETATTR, make.call(INERT, make.value(1)), make.value("min"))
        + make.call(make.name("mmcv.runner", "x")) + make.value({"a": 1}) + b"b"
        + INERT + b")\x81" + b"(" + make.value(1) + make.value(2) + b"u" + b"(" + make.value(3) + b"e"
    ),
    "a huge memo index": b"Nr\xff\xff\xff\x7f",
    "depth": b"]" * 100_000 + b"a" * 99_999,
    "billion laughs": b"(]" + b"".join(b"q%c](" % i + b"h%c" % i * 10 + b"e" for i in range(50)) + b"l",
    "a list in itself": b"]q\0h\0a",
    "objects in an array": (
        make.call(make.name("numpy.core.multiarray", "_reconstruct"))
        + make.tuple_of(
            make.value(1), make.value((1,)),
            make.call(make.name("numpy", "dtype"), make.value("O8")), b"\x89", b"]",
        ) + b"b"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_objects_are_ignored(tmp_path, what):
    body = make.dict_of(message_hub=b"](" + HARMLESS[what] + b"e", state_dict=BODY)
    (tmp_path / "x.pth").write_bytes(make.legacy(body, STORAGES))
    tracemalloc.start()
    try:
        assert read_checkpoint(tmp_path / "x.pth").state["n"].numpy() == 258
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_the_length_of_a_pickle_is_limited(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    path.write_bytes(make.legacy(make.dict_of(optimizer=b"N0" * 1000 + b"N", model=BODY), STORAGES))
    assert read_checkpoint(path).state["n"].numpy() == 258
    monkeypatch.setattr(unpickle, "MAX_READS", 2000)
    with pytest.raises(ValueError, match="far longer than weights need"):
        read_checkpoint(path)


def test_the_size_of_metadata_is_limited(tmp_path):
    path = tmp_path / "x.pth"
    deep = make.dict_of(a=HARMLESS["depth"])
    path.write_bytes(make.legacy(make.dict_of(meta=deep, model=BODY), STORAGES))
    with pytest.raises(ValueError, match=r"x\.pth has metadata nested more than 100 levels deep"):
        read_checkpoint(path)
    laughs = make.dict_of(a=HARMLESS["billion laughs"], b=HARMLESS["a list in itself"])
    path.write_bytes(make.legacy(make.dict_of(meta=laughs, model=BODY), STORAGES))
    meta = read_checkpoint(path).meta
    assert [len(list) for list in meta["a"]] == [0] + [10] * 50 and meta["b"][0] is meta["b"]


# Tensors that reach beyond their storage.

VIEWS = {
    "too long": {"shape": (4,), "strides": (1,)},
    "too far": {"shape": (1,), "strides": (1,), "offset": 3},
    "stride": {"shape": (2,), "strides": (3,)},
    "both": {"shape": (2, 2), "strides": (2, 1), "offset": 1},
    "negative size": {"shape": (-1,), "strides": (1,)},
    "negative stride": {"shape": (2,), "strides": (-1,), "offset": 2},
    "negative offset": {"shape": (1,), "strides": (1,), "offset": -1},
    "wrapping size": {"shape": (2**62, 4), "strides": (0, 0)},
    "huge and empty": {"shape": (2**40, 2**40, 0), "strides": (0, 0, 0)},
    "ranks": {"shape": (2, 1), "strides": (1,)},
    "fraction": {"shape": (1.0,), "strides": (1,)},
    "truth": {"shape": (True,), "strides": (1,)},
    "many dimensions": {"shape": (1,) * 33, "strides": (1,) * 33},
    "view": {"shape": (1,), "strides": (1,), "view": ("9", 2, 2)},
}


@pytest.mark.parametrize("what", VIEWS)
def test_a_view_stays_in_its_storage(tmp_path, what):
    body = make.dict_of(w=make.tensor("7", 3, **VIEWS[what]))
    (tmp_path / "x.pth").write_bytes(make.legacy(body, STORAGES[:1]))
    with pytest.raises(ValueError, match=rf"x\.pth {DAMAGED}"):
        read_checkpoint(tmp_path / "x.pth")


def test_the_size_of_an_expanded_tensor_is_limited(tmp_path):
    path = tmp_path / "x.pth"
    for repeats, allowed in ((2**20, True), (2**30, False)):
        body = make.dict_of(w=make.tensor("7", 3, (repeats,), (0,)))
        path.write_bytes(make.legacy(body, STORAGES[:1]))
        if allowed:
            assert (read_checkpoint(path).state["w"].numpy() == np.ones(repeats)).all()
        else:
            with pytest.raises(ValueError, match=r"x\.pth expands 4 bytes into a tensor of 4294967296"):
                read_checkpoint(path)


def test_a_storage_must_have_the_declared_size(tmp_path):
    path = tmp_path / "x.pth"
    for count in (2, 4, 2**40, 2**70, -1):
        body = make.dict_of(w=make.tensor("7", count, (1,), (1,)))
        path.write_bytes(make.legacy(body, STORAGES[:1]))
        with pytest.raises(ValueError, match=DAMAGED):
            read_checkpoint(path)
        make.torch_zip(path, body, STORAGES[:1])
        with pytest.raises(ValueError, match=DAMAGED):
            read_checkpoint(path)


# Zips.


@pytest.mark.parametrize(
    "name", ["../away", "/etc/away", "a/../../away", "..\\away", "C:\\away", "away/.."]
)
def test_zip_members_with_paths_outside_the_zip(tmp_path, name):
    path = tmp_path / "x.zip"
    make.zipped(path, {name: make.legacy(BODY, STORAGES)})
    with pytest.raises(ValueError, match="a path outside it") as caught:
        read_checkpoint(path)
    assert repr(name) in str(caught.value) and str(path) in str(caught.value)
    assert list(tmp_path.parent.rglob("away")) == []


def test_a_storage_key_is_not_used_as_a_path(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(NUMBERS)
    for key in (str(secret), "../../secret"):
        body = make.dict_of(w=make.tensor(key, 3, (3,), (1,)))
        make.torch_zip(tmp_path / "x.pth", body, [(key, 3, NUMBERS)] if ".." in key else [])
        with pytest.raises(ValueError, match="a path outside it|missing"):
            read_checkpoint(tmp_path / "x.pth")
        make.torch_zip(tmp_path / "x.pth", body)
        with pytest.raises(ValueError, match=f"{DAMAGED}.*missing"):
            read_checkpoint(tmp_path / "x.pth")


def test_zip_bombs(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.pth", "w") as member:
            for _ in range(80):
                member.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"unpacked size of 83886080: a zip bomb"):
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    # With a false size in the directory, no more than that is unpacked.
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2")
    struct.pack_into("<I", data, entry + 24, 1000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=DAMAGED):
        read_checkpoint(path)


def test_overlapping_zip_members(tmp_path):
    path = tmp_path / "x.zip"
    make.zipped(path, {"a.pth": make.legacy(BODY, STORAGES), "b.pth": b"x"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    first, second = data.index(b"PK\1\2"), data.rindex(b"PK\1\2")
    data[second + 46 : second + 51] = data[first + 46 : first + 51]
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # where the member is
    path.write_bytes(data)
    with pytest.raises(ValueError, match="overlapping members"):
        read_checkpoint(path)


def test_zips_without_exactly_one_readable_checkpoint(tmp_path):
    path = tmp_path / "x.zip"
    good = make.legacy(BODY, STORAGES)
    make.zipped(path, {"a.pth": good, "b.pth": good})
    with pytest.raises(ValueError, match=r"Received: 2 checkpoints among 2 files \('a.pth', 'b.pth'\)"):
        read_checkpoint(path)
    make.zipped(path, {"a.pth": good, "read.me": b"x"})
    assert read_checkpoint(path).state["n"].numpy() == 258
    make.zipped(path, {"a.zip": make.zipped(tmp_path / "a", {"a.pth": good}).read_bytes()})
    with pytest.raises(ValueError, match="holds a zip file that is not a checkpoint"):
        read_checkpoint(path)
    make.zipped(path, {"a.pth": good}, zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match=r"unsupported compression \(method 12\)"):
        read_checkpoint(path)
    data = bytearray(make.zipped(path, {"a.pth": good}).read_bytes())
    data[6] |= 1
    data[data.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="encrypted"):
        read_checkpoint(path)


def test_a_torchscript_program(tmp_path):
    members = {"net/data.pkl": make.program(b"N"), "net/constants.pkl": make.program(b"N")}
    make.zipped(tmp_path / "x.pt", members, zipfile.ZIP_STORED)
    with pytest.raises(ValueError, match="TorchScript"):
        read_checkpoint(tmp_path / "x.pt")


# Headers of .safetensors.


def entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


HEADERS = {
    "overlap": ({"a": entry(0, 8, (2,)), "b": entry(4, 12, (2,))}, "overlap"),
    "gap": ({"a": entry(0, 4), "b": entry(8, 12)}, "gaps"),
    "rest": ({"a": entry(0, 4), "b": entry(4, 8)}, "end before the file"),
    "beyond": ({"a": entry(0, 16, (4,))}, "bytes 0 to 16 are needed, 12 are there"),
    "backwards": ({"a": entry(8, 4)}, DAMAGED),
    "negative": ({"a": entry(-4, 12, (4,))}, DAMAGED),
    "shape": ({"a": entry(0, 12, (2,))}, "12 bytes for a tensor"),
    "negative sizes": ({"a": entry(0, 12, (-1, -3))}, DAMAGED),
    "huge sizes": ({"a": entry(0, 12, (2**63, 3))}, DAMAGED),
    "dtype": ({"a": entry(0, 12, (3,), "F4")}, "unknown type 'F4'"),
    "types": ({"a": entry(0, 12.0, (3,))}, DAMAGED),
    "list": ([1], DAMAGED),
    "text": ({"a": "b"}, DAMAGED),
    "twice": (
        b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},'
        b'"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}',
        "twice",
    ),
    "metadata": ({"__metadata__": {"a": [1]}, "a": entry(0, 12, (3,))}, "metadata"),
    "deep": (b'{"a":' + b"[" * 100_000, DAMAGED),
    "not JSON": (b"{\xff", DAMAGED),
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_of_safetensors(tmp_path, what):
    header, message = HEADERS[what]
    data = make.safetensors(header, NUMBERS)
    if what == "list":  # the format is recognized by the brace
        data = make.safetensors(b"{" + b"}", NUMBERS)
        message = "end before the file"
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match=rf"(?s)x .*{message}"):
        read_checkpoint(tmp_path / "x")


def test_the_size_of_a_header_is_limited(tmp_path):
    path = tmp_path / "x.safetensors"
    good = make.safetensors(HEADER, COUNT + NUMBERS)
    for size in (2**24 + 1, 2**39):
        path.write_bytes(struct.pack("<Q", size) + good[8:])
        with pytest.raises(ValueError, match=rf"header of at most 16777216 bytes. Received: {size}"):
            read_checkpoint(path)
