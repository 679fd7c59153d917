"""`read_checkpoint`: recognizes the format of a file and finds the state dict in it."""

import collections
import dataclasses
import os
import pathlib
import pickle
import re
import struct
import zipfile
import zlib
from typing import Any

from keras_encnet.convert.reading.blobs import Blob, File
from keras_encnet.convert.reading.errors import Refused, damaged, quoted
from keras_encnet.convert.reading.safetensors import is_safetensors, read_safetensors
from keras_encnet.convert.reading.tensors import DTYPES, Storage, Tensor, sizes
from keras_encnet.convert.reading.unpickle import Reader, Unpickler, as_tensor, plain
from keras_encnet.convert.reading.zips import members

MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

# Keys under which training programs save the state dict, in the order in which they are tried.
WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "network", "net", "module", "weights")

# Exceptions that parsing a damaged file may raise.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        state: the state dict; maps names to tensors.
        meta: the metadata, plain values only.
        path: path of the file.
    """

    state: dict[str, Tensor]
    meta: dict[str, Any]
    path: pathlib.Path | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Maps the names in `state` to PyTorch shapes."""
        return {key: tuple(tensor.shape) for key, tensor in self.state.items()}


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Reads a PyTorch checkpoint, without PyTorch.

    The file may be a `.pth` file in the legacy or the zip format, a `.zip` around one, or a
    `.safetensors` file. It may have any extension.

    Nothing that a pickle names is imported or called. The values of a tensor are read on access, so the
    file must not change before.

    Args:
        path: path of the file.

    Returns:
        A `Checkpoint`. `state` is the state dict, which may be nested (under `state_dict`, `model`, …),
        without the prefix `module.` of parallel training. Its values are tensors with `.shape`,
        `.dtype` (`"float32"`, `"bfloat16"`, …) and `.numpy()`. Entries that are not tensors (step
        counters, None) are omitted. `meta` is the file's entry `meta`, or the metadata of a
        `.safetensors` file, without instances of classes; empty if there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated or damaged, is of another format, holds no state dict, or
            asks for more than weights need.

    >>> import tempfile, struct
    >>> header = b'{"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/two.safetensors"
    ...     with open(path, "wb") as file:
    ...         _ = file.write(struct.pack("<Q", len(header)) + header + b"\\x80?\\0@")
    ...     tensor = read_checkpoint(path).state["w"]
    ...     tensor, tensor.numpy()
    (Tensor(shape=(2,), dtype='bfloat16'), array([1., 2.], dtype=float32))
    """
    file = File(open(path, "rb", buffering=0), str(path))
    try:
        return dataclasses.replace(_read(Blob(file, 0, file.size)), path=pathlib.Path(path))
    except Refused as error:
        reason = str(error)
    except MemoryError:
        reason = f"takes more memory to read than is free. Received: {file.size} bytes."
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except DAMAGE as error:
        # Only the type is named: the message may quote any amount of the file.
        kind = f"{type(error).__module__}.{type(error).__name__}"
        reason = str(damaged(kind.removeprefix("builtins.")))
    raise ValueError(f"{path} {reason}")


def _read(blob, inside_zip=False):
    start = blob.part(0, min(blob.size, 512)).read().tobytes()
    if start.startswith(b"PK\3\4"):
        return _read_zip(blob, inside_zip)
    if is_safetensors(start):
        tensors, metadata = read_safetensors(blob)
        return Checkpoint(_state(tensors, blob.budget), metadata)
    if start[257:262] == b"ustar":
        raise Refused(
            "is a tar file, the format of PyTorch 0.1, which is not supported. Load it with PyTorch "
            "and save it again."
        )
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        raise Refused(
            "is an HDF5 file, not a PyTorch checkpoint. If Keras wrote it, load it with "
            "`model.load_weights`."
        )
    # The first opcode of a pickle of protocol 2 and later, or the magic number in protocols 0 and 1.
    if start.startswith((b"\x80", b"L%dL\n" % MAGIC)):
        return _read_legacy(blob)
    raise Refused(
        "is neither a PyTorch checkpoint nor a .safetensors file, or it is truncated or damaged. "
        f"Received: {blob.size} bytes that begin with {start[:16]}. Check where the file came from."
    )


def _read_zip(blob, inside_zip):
    files = members(blob)
    pickles = [name for name in files if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if len(pickles) == 1:
        return _read_torch_zip(files, pickles[0].removesuffix("data.pkl"))
    if "model.weights.h5" in files:
        raise Refused(
            "is a Keras model, not a PyTorch checkpoint. Load it with `keras.saving.load_model`."
        )
    # Without the files that macOS adds to a zip.
    names = [name for name in files if not re.match(r"__MACOSX/|(.*/)?\.DS_Store$", name)]
    weights = [name for name in names if re.search(r"\.(pth|pt|ckpt|safetensors)(\.tar)?$", name)]
    if inside_zip:
        raise Refused("holds a zip file that is not a checkpoint. Unpack it and pass the checkpoint.")
    for candidates in (names, weights):
        if len(candidates) == 1:
            return _read(files[candidates[0]], inside_zip=True)
    raise Refused(
        f"is a zip file and must hold exactly one checkpoint. Received: {len(weights)} checkpoints "
        f"among {len(names)} files ({_first(names)}). Unpack it and pass one of them."
    )


def _read_torch_zip(files, prefix):
    if f"{prefix}constants.pkl" in files:
        raise Refused(
            "is a TorchScript program, not a checkpoint. Load it with `torch.jit.load` and save its "
            "`state_dict()`."
        )
    order = files[f"{prefix}byteorder"].read().tobytes() if f"{prefix}byteorder" in files else b"little"
    if order not in (b"little", b"big"):
        raise damaged("its byte order is neither little nor big")

    def storage(dtype, key, size):
        blob = files.get(f"{prefix}data/{key}")
        if blob is None or blob.size != size:
            raise damaged(f"storage {quoted(key)} is missing or has the wrong size")
        return Storage(dtype, size, lambda: blob, "<" if order == b"little" else ">")

    pickled = files[f"{prefix}data.pkl"]
    return _unwrap(Unpickler(Reader(pickled), storage).load(), pickled.budget)


def _read_legacy(blob):
    reader = Reader(blob)
    if _number(Unpickler(reader).load()) != MAGIC:
        raise Refused(
            "is a pickle, but not one that `torch.save` wrote. Save the weights with `torch.save` or "
            "as .safetensors."
        )
    protocol = _number(Unpickler(reader).load())
    if protocol != LEGACY_PROTOCOL:
        raise damaged(f"protocol {protocol} instead of {LEGACY_PROTOCOL}")
    # Describes the machine that wrote the file. Legacy files are always little-endian.
    Unpickler(reader).load()

    # The bytes of the storages come after the pickle that refers to them.
    types, blobs = {}, {}

    def storage(dtype, key, size, view=None):
        if types.setdefault(key, (dtype, size)) != (dtype, size):
            raise damaged(f"storage {quoted(key)} has two types or sizes")
        if view is None:
            return Storage(dtype, size, lambda: blobs[key])
        _, start, count = view
        start, length = (DTYPES[dtype][0] * number for number in sizes((start, count)))
        if start + length > size:
            raise damaged(f"a view reaches beyond storage {quoted(key)}")
        return Storage(dtype, length, lambda: blobs[key].part(start, length))

    top = Unpickler(reader, storage).load()
    keys = Unpickler(reader).load()
    position = reader.position
    for key in keys:
        dtype, size = types[key]
        count = int.from_bytes(blob.part(position, 8).read().tobytes(), "little")
        if count * DTYPES[dtype][0] != size or key in blobs:
            raise damaged(f"storage {quoted(key)} has the wrong size")
        blobs[key] = blob.part(position + 8, size)
        position += 8 + size
    if blobs.keys() != types.keys():
        raise damaged("a storage is missing")
    return _unwrap(top, blob.budget)


def _number(value):
    return value if type(value) is int and value.bit_length() <= 80 else None


def _unwrap(top, budget):
    """The checkpoint in the object that was given to `torch.save`."""
    meta = {}
    # Limited, because a dict may contain itself.
    for _ in range(5):
        if type(top) is not dict:
            raise Refused(f"holds a {type(top).__name__}, not a state dict. Save `model.state_dict()`.")
        if type(top.get("meta")) is dict:
            meta = meta or plain(top["meta"], budget)
        inner = next((name for name in WRAPPERS if type(top.get(name)) is dict), None)
        if inner is None:
            return Checkpoint(_state(top, budget), meta)
        top = top[inner]
    raise Refused("holds nested dicts but no state dict. Save `model.state_dict()`.")


def _state(mapping, budget):
    tensors = {name: as_tensor(value) for name, value in mapping.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    # Two names may stand for one tensor, but a model has one copy for each.
    budget.spend(sum(tensor.cost for tensor in tensors.values()))
    if not all(type(name) is str for name in tensors):
        raise Refused("holds tensors under keys that are not strings, so it is not a state dict.")
    if not tensors:
        raise Refused(
            f"must hold a state dict, at the top level or under {', '.join(WRAPPERS)}. Received: "
            f"{len(mapping)} entries ({_first(mapping)}) without a tensor."
        )
    names = {name: re.sub(r"^(module\.)+", "", name) for name in tensors}
    twice = [name for name, count in collections.Counter(names.values()).items() if count > 1]
    if twice:
        raise Refused(
            f"holds {_first(twice)} with and without the prefix `module.`. Remove one of the two."
        )
    return {names[name]: tensor for name, tensor in tensors.items()}


def _first(names):
    """The first few of some names, for a message."""
    texts = [quoted(name) if type(name) is str else type(name).__name__ for name in names]
    return ", ".join([*texts[:5], *["…"][: len(texts) > 5]])
