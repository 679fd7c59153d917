"""Damaged and malicious files."""

import io
import pickle
import struct
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import handmade as make
import numpy as np
import pytest
from test_checkpoint import (
    BODY,
    COUNT,
    HEADER,
    KINDS,
    NUMBERS,
    SAVED,
    STORAGES,
    numpy_array,
    write_small,
)

from keras_encnet.convert.reading import blobs, budget
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
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file.*`model.load_weights`"),
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
    monkeypatch.setattr(budget, "FLOOR", 2**16)
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


# Files that take more memory or time than their size allows.


def expect_refusal_within(path, seconds=30, memory=2**28):
    """Reads a file that must be refused; returns the error's message."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(ValueError, match=rf"{path.name} .*") as caught:
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < seconds
    return str(caught.value)


def repeat(part, times=2000):
    """The opcodes for a list that holds one object many times."""
    return b"](" + part + b"q\1" + b"h\1" * (times - 1) + b"e"


REPEATED = {
    "an array": numpy_array(np.zeros(3 * 2**19, "uint8")),
    "a set": b"\x8f(" + b"".join(make.value(i) for i in range(20_000)) + b"\x90",
    "a list": b"](" + b"N" * 20_000 + b"e",
}


@pytest.mark.parametrize("what", REPEATED)
def test_what_metadata_repeats_is_copied_once(tmp_path, what):
    path = tmp_path / "x.pth"
    body = make.dict_of(meta=make.dict_of(a=repeat(REPEATED[what])), model=BODY)
    make.torch_zip(path, body, STORAGES, compression=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        copies = read_checkpoint(path).meta["a"]
        assert len(copies) == 2000 and all(copy is copies[0] for copy in copies)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("container", ["set", "frozenset", "list", "tuple", "dict"])
def test_the_memory_of_copies_is_limited(tmp_path, container):
    path = tmp_path / "x.pth"
    items = b"".join(make.value(i) for i in range(20_000))
    items = b"}(" + items + b"u" if container == "dict" else b"](" + items + b"e"
    build = make.name("builtins", container)
    copies = build + b"q\1" + items + b"\x85q\2" + b"h\1h\2R" * 2000
    body = make.dict_of(optimizer=b"](" + copies + b"e", model=BODY)
    path.write_bytes(make.legacy(body, STORAGES))
    assert "copies the same data" in expect_refusal_within(path)


@pytest.mark.parametrize("kind", ["an array", "a tensor"])
def test_a_tensor_under_many_names_counts_once_for_each(tmp_path, kind):
    path = tmp_path / "x.pth"
    size = 2**19
    tensor = {
        "an array": numpy_array(np.zeros(size, "float32")),
        "a tensor": make.tensor("0", 1, (size,), (0,)),
    }[kind]
    for names, allowed in ((20, True), (2000, False)):
        weights = b"".join(make.value(f"w{i}") + b"h\1" for i in range(1, names))
        body = b"}(" + make.value("w0") + tensor + b"q\1" + weights + b"u"
        storages = [("0", 1, b"1234")] if kind == "a tensor" else []
        make.torch_zip(path, body, storages, compression=zipfile.ZIP_DEFLATED)
        if allowed:
            assert len(read_checkpoint(path).state) == names
        else:
            assert "bytes of memory" in expect_refusal_within(path)


def test_a_view_that_skips_bytes_counts_with_them(tmp_path):
    path, count = tmp_path / "x.pth", 2**18
    view = make.tensor("0", count, (2,), (count - 1,))
    for names, allowed in ((4, True), (100, False)):
        body = make.dict_of(**{f"w{i}": view for i in range(names)})
        path.write_bytes(make.legacy(body, [("0", count, bytes(4 * count))]))
        if allowed:
            assert read_checkpoint(path).state["w0"].numpy().tolist() == [0, 0]
        else:
            assert "bytes of memory" in expect_refusal_within(path)


def colliding_pairs(count):
    """Pairs of integers with the same hash, by inverting CPython's hash of tuples."""
    word, prime1, prime2, prime5 = (
        2**64,
        11400714785074694791,
        14029467366897019727,
        2870177450012600261,
    )
    pairs, first = [], 0
    while len(pairs) < count:
        first += 1
        lane = (prime5 + first * prime2) % word
        lane = ((lane << 31 | lane >> 33) * prime1) % word
        second = -lane * pow(prime2, -1, word) % word
        if second < 2**61 - 1:
            pairs.append((first, second))
    return pairs


@pytest.mark.parametrize("container", ["dict", "set"])
def test_keys_with_the_same_hash_take_no_longer_than_others(tmp_path, container):
    path, same = tmp_path / "x.pth", colliding_pairs(12_000)
    assert len(set(map(hash, same[:100]))) == 1
    times = []
    for pairs in ([(first, first) for first, _ in same], same):
        keys = [make.value(pair) for pair in pairs]
        if container == "dict":
            part = b"}(" + b"N".join(keys) + b"Nu"
        else:
            part = b"\x8f(" + b"".join(keys) + b"\x90"
        path.write_bytes(make.legacy(make.dict_of(meta=make.dict_of(a=part), model=BODY), STORAGES))
        start = time.process_time()
        read_checkpoint(path)
        times.append(time.process_time() - start)
    assert times[1] < 2 * times[0] + 0.5


def test_a_long_key_is_an_error(tmp_path):
    path = tmp_path / "x.pth"
    key = b"(" + b"N" * 20_000 + b"tq\1"
    body = make.dict_of(optimizer=b"}(" + key + b"N" + b"h\1N" * 20_000 + b"u", model=BODY)
    path.write_bytes(make.legacy(body, STORAGES))
    assert "a tuple as a key" in expect_refusal_within(path)


def test_empty_arrays_of_huge_shapes_take_no_memory(tmp_path):
    path = tmp_path / "x.pth"
    array = make.call(make.name("numpy.core.multiarray", "_reconstruct")) + make.tuple_of(
        make.value(1), make.value((2**30, 0)),
        make.call(make.name("numpy", "dtype"), make.value("U1")), b"\x89", make.value(""),
    ) + b"b"  # fmt: skip
    path.write_bytes(make.legacy(make.dict_of(meta=make.dict_of(a=array), model=BODY), STORAGES))
    tracemalloc.start()
    try:
        assert read_checkpoint(path).meta["a"].shape == (2**30, 0)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_an_array_of_invalid_characters_is_an_error(tmp_path):
    path = tmp_path / "x.pth"
    text = numpy_array(np.array(["ab"])).replace(b"b\0\0\0", b"b\0\x11\0")
    path.write_bytes(make.legacy(make.dict_of(meta=make.dict_of(a=text), model=BODY), STORAGES))
    with pytest.raises(ValueError, match=rf"x\.pth {DAMAGED} .*invalid character"):
        read_checkpoint(path)


def test_the_memory_of_a_header_is_limited(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(make.safetensors(b'{"a": [' + b"[]," * 4_000_000 + b"[]]}", b""))
    expect_refusal_within(path)


def test_zip_bombs_in_zips(tmp_path):
    path, inner = tmp_path / "x.zip", io.BytesIO()
    body, size = make.dict_of(w=make.tensor("0", 10**7, (10**7,), (1,))), 4 * 10**7
    make.torch_zip(inner, body, [("0", 10**7, bytes(size))], compression=zipfile.ZIP_DEFLATED)
    make.zipped(path, {"x.pth": inner.getvalue()})
    assert path.stat().st_size < size / 1000
    assert "bytes of memory" in expect_refusal_within(path)


@pytest.mark.parametrize("path", ["x.pth", "x.safetensors"])
def test_too_little_memory_is_an_error_that_names_the_file(tmp_path, monkeypatch, path):
    path = tmp_path / path
    write_small(path, "legacy" if path.suffix == ".pth" else "safetensors")

    def read_into(self, buffer, position):
        raise MemoryError

    monkeypatch.setattr(blobs.File, "read_into", read_into)
    with pytest.raises(ValueError, match=rf"{path.name} takes more memory .*Received: \d+ bytes"):
        read_checkpoint(path)


def test_errors_of_the_system_name_the_file(tmp_path, monkeypatch):
    write_small(tmp_path / "x.zip", "zip around legacy")

    def full(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.zip'"):
        read_checkpoint(tmp_path / "x.zip")


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


def test_an_empty_tensor_may_begin_anywhere(tmp_path):
    body = make.dict_of(w=make.tensor("7", 3, (0, 2), (2, 1), offset=100))
    for path in (tmp_path / "x.pth", tmp_path / "y.pth"):
        if path.stem == "x":
            path.write_bytes(make.legacy(body, STORAGES[:1]))
        else:
            make.torch_zip(path, body, STORAGES[:1])
        assert read_checkpoint(path).state["w"].numpy().shape == (0, 2)


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


STORED = {
    "a checkpoint": lambda file: make.torch_zip(file, BODY, STORAGES),
    "a zip around a legacy file": lambda file: make.zipped(
        file, {"net.pth": make.legacy(BODY, STORAGES)}, zipfile.ZIP_STORED
    ),
    "a zip around a checkpoint": lambda file: make.zipped(
        file, {"net.pth": STORED["a checkpoint"](io.BytesIO()).getvalue()}, zipfile.ZIP_STORED
    ),
    "a zip around .safetensors": lambda file: make.zipped(
        file, {"net.safetensors": make.safetensors(HEADER, COUNT + NUMBERS)}, zipfile.ZIP_STORED
    ),
    "compressed": lambda file: make.torch_zip(file, BODY, STORAGES, compression=zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("what", STORED)
def test_a_flipped_bit_in_a_zip_never_gives_other_weights(tmp_path, what):
    path = tmp_path / "x.pth"
    original = STORED[what](io.BytesIO()).getvalue()
    path.write_bytes(original)
    expected = {key: tensor.numpy() for key, tensor in read_checkpoint(path).state.items()}
    refused = 0
    for position in range(len(original)):
        path.write_bytes(
            original[:position]
            + bytes([original[position] ^ 1 << position % 8])
            + original[position + 1 :]
        )
        try:
            state = read_checkpoint(path).state
        except ValueError as error:
            refused += "x.pth" in str(error)
            continue
        assert list(state) == list(expected), position
        for key, value in expected.items():
            np.testing.assert_array_equal(state[key].numpy(), value, err_msg=str(position))
    assert refused


def test_a_flipped_bit_in_a_stored_member_is_named(tmp_path):
    path = tmp_path / "x.pth"
    make.torch_zip(path, BODY, STORAGES)
    path.write_bytes(path.read_bytes().replace(NUMBERS, bytes(12)))
    with pytest.raises(ValueError, match=rf"x\.pth {DAMAGED} .*'archive/data/7' .*checksum"):
        read_checkpoint(path)


def test_zips_without_checksums(tmp_path):
    # As after `torch.serialization.set_crc32_options(False)`.
    path = tmp_path / "x.pth"
    make.torch_zip(path, BODY, STORAGES)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 14), (b"PK\1\2", 16)):
        start = data.find(signature)
        while start >= 0:
            data[start + offset : start + offset + 4] = bytes(4)
            start = data.find(signature, start + 1)
    path.write_bytes(data)
    assert read_checkpoint(path).state["w"].numpy().tolist() == [1, 2, -0.5]


def test_a_keras_file_is_named_as_such(tmp_path):
    make.zipped(tmp_path / "x.keras", {"config.json": b"{}", "model.weights.h5": b"\x89HDF"})
    with pytest.raises(ValueError, match=r"x\.keras is a Keras model.*`keras\.saving\.load_model`"):
        read_checkpoint(tmp_path / "x.keras")


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
