"""Writes checkpoints byte by byte: opcodes of pickles, and the file formats that contain them."""

import json
import pickle
import struct
import zipfile

MAGIC = 0x1950A86A20F9469CFC6C


def name(module, attribute):
    """The opcode for a function or class."""
    return f"c{module}\n{attribute}\n".encode()


def value(plain):
    """The opcodes for a plain value."""
    return pickle.dumps(plain, 2)[2:-1]


def tuple_of(*parts):
    """The opcodes for a tuple; `parts` are opcodes, as in the functions below."""
    return b"(" + b"".join(parts) + b"t"


def call(function, *parts):
    return function + tuple_of(*parts) + b"R"


def dict_of(**parts):
    return b"}(" + b"".join(value(key) + part for key, part in parts.items()) + b"u"


def storage(key, count, kind="FloatStorage"):
    return value("storage"), name("torch", kind), value(key), value("cpu"), value(count)


def tensor(key, count, shape, strides, offset=0, kind="FloatStorage", view=None):
    identity = tuple_of(*storage(key, count, kind), *([] if view is None else [value(view)])) + b"Q"
    hooks = call(name("collections", "OrderedDict"))
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, identity, value(offset), value(shape), value(strides), value(False), hooks)


def program(body):
    """A complete pickle."""
    return b"\x80\2" + body + b"."


def legacy(body, storages=()):
    """A file in the legacy format; `storages` are (key, count, bytes)."""
    start = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}]
    head = b"".join(pickle.dumps(part, 2) for part in start) + program(body)
    keys = pickle.dumps([key for key, _, _ in storages], 2)
    return head + keys + b"".join(struct.pack("<q", count) + data for _, count, data in storages)


def torch_zip(path, body, storages=(), byteorder="little", compression=zipfile.ZIP_STORED):
    members = {"data.pkl": program(body), "byteorder": byteorder.encode()}
    members.update((f"data/{key}", data) for key, _, data in storages)
    return zipped(path, {f"archive/{key}": data for key, data in members.items()}, compression)


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for key, data in members.items():
            archive.writestr(key, data)
    return path


def safetensors(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
