"""Checkpoints of PyTorch, read without PyTorch and without running them."""

import collections
import dataclasses
import pathlib
import pickle
import re
import struct
import zipfile
import zlib

from keras_encnet.convert.reading.blobs import Blob, File, Refused, damaged
from keras_encnet.convert.reading.safetensors import is_safetensors, read_safetensors
from keras_encnet.convert.reading.tensors import DTYPES, Storage, sizes
from keras_encnet.convert.reading.unpickle import Reader, Unpickler, as_tensor, plain
from keras_encnet.convert.reading.zips import members, shown

MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

# Where training programs put the state dict, in the order in which they are looked for.
WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "network", "net", "module", "weights")

# What parsing a damaged file raises.
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
    """What a checkpoint holds: `state`, a dict of names to `Tensor`s, and `meta`, plain values.

    `path` is the file's.
    """

    state: dict
    meta: dict
    path: pathlib.Path | None = None

    @property
    def shapes(self):
        """PyTorch shapes by name."""
        return {key: tuple(tensor.shape) for key, tensor in self.state.items()}


def read_checkpoint(path):
    """Reads the weights of a PyTorch checkpoint: `.pth` in the legacy or the zip format, a `.zip`
    around one, or `.safetensors`, whatever the file's name ends in.

    Nothing that a pickle asks for is imported or called, and the values of a tensor are read when
    they are taken: until then the file must stay as it is.

    Returns:
        A `Checkpoint`. `state` is the state dict, taken out of what is wrapped around it
        (`state_dict`, `model`, …) and with its names rid of `module.`; its values are tensors with
        `.shape`, `.dtype` (`"float32"`, `"bfloat16"`, …) and `.numpy()`, and entries that are no
        tensors (step counters, None) are left out. `meta` is what the file says about itself under
        `meta`, or a .safetensors file's metadata, without objects of classes; else empty.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is cut short or damaged, of another format, holds no state dict, or
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
    except DAMAGE as error:
        # Their text may quote the file at any length.
        kind = f"{type(error).__module__}.{type(error).__name__}"
        reason = str(damaged(kind.removeprefix("builtins.")))
    raise ValueError(f"{path} {reason}")


def _read(blob, inside_zip=False):
    start = blob.part(0, min(blob.size, 512)).read().tobytes()
    if start.startswith(b"PK\3\4"):
        return _read_zip(blob, inside_zip)
    if is_safetensors(start):
        tensors, metadata = read_safetensors(blob)
        return Checkpoint(_state(tensors), metadata)
    if start[257:262] == b"ustar":
        raise Refused(
            "is a tar file, the format of PyTorch 0.1, which is not read. Load it with PyTorch and "
            "save it again."
        )
    # The first opcode of a pickle since protocol 2; the magic number in protocols 0 and 1.
    if start.startswith((b"\x80", b"L%dL\n" % MAGIC)):
        return _read_legacy(blob)
    raise Refused(
        "is neither a PyTorch checkpoint nor a .safetensors file, or it is cut short or damaged: it "
        f"has {blob.size} bytes and begins with {start[:16]}. Check where it came from."
    )


def _read_zip(blob, inside_zip):
    files = members(blob)
    pickles = [name for name in files if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if len(pickles) == 1:
        return _read_torch_zip(files, pickles[0].removesuffix("data.pkl"))
    # What macOS adds to a zip is not part of it.
    names = [name for name in files if not re.match(r"__MACOSX/|(.*/)?\.DS_Store$", name)]
    weights = [name for name in names if re.search(r"\.(pth|pt|ckpt|safetensors)(\.tar)?$", name)]
    if inside_zip:
        raise Refused("is a zip in a zip without a checkpoint in it.")
    for candidates in (names, weights):
        if len(candidates) == 1:
            return _read(files[candidates[0]], inside_zip=True)
    raise Refused(
        f"is a zip with {len(weights)} checkpoints among {len(names)} files ({_some(names)}); one is "
        "expected. Unpack it and give the one you mean."
    )


def _read_torch_zip(files, prefix):
    if f"{prefix}constants.pkl" in files:
        raise Refused(
            "is a TorchScript program, not a checkpoint. Load it with `torch.jit.load` and save its "
            "`state_dict()`."
        )
    order = files[f"{prefix}byteorder"].read().tobytes() if f"{prefix}byteorder" in files else b"little"
    if order not in (b"little", b"big"):
        raise damaged("a byte order that is neither little nor big")

    def storage(dtype, key, size):
        blob = files.get(f"{prefix}data/{key}")
        if blob is None or blob.size != size:
            raise damaged(f"storage {shown(key)} is missing or of another size")
        return Storage(dtype, size, lambda: blob, "<" if order == b"little" else ">")

    return _unwrap(Unpickler(Reader(files[f"{prefix}data.pkl"]), storage).load())


def _read_legacy(blob):
    reader = Reader(blob)
    if _number(Unpickler(reader).load()) != MAGIC:
        raise Refused(
            "is a pickle, but not one that `torch.save` wrote. Save the weights with PyTorch or as "
            ".safetensors."
        )
    protocol = _number(Unpickler(reader).load())
    if protocol != LEGACY_PROTOCOL:
        raise damaged(f"protocol {protocol} instead of {LEGACY_PROTOCOL}")
    Unpickler(reader).load()  # about the machine that wrote it: the numbers are little-endian anyway

    # The bytes come after the pickle that speaks of them.
    types, blobs = {}, {}

    def storage(dtype, key, size, view=None):
        if types.setdefault(key, (dtype, size)) != (dtype, size):
            raise damaged(f"storage {shown(key)} has two types or sizes")
        if view is None:
            return Storage(dtype, size, lambda: blobs[key])
        _, start, count = view
        start, length = (DTYPES[dtype][0] * number for number in sizes((start, count)))
        if start + length > size:
            raise damaged(f"a view reaches beyond storage {shown(key)}")
        return Storage(dtype, length, lambda: blobs[key].part(start, length))

    top = Unpickler(reader, storage).load()
    keys = Unpickler(reader).load()
    position = reader.position
    for key in keys:
        dtype, size = types[key]
        count = int.from_bytes(blob.part(position, 8).read().tobytes(), "little")
        if count * DTYPES[dtype][0] != size or key in blobs:
            raise damaged(f"storage {shown(key)} is of another size")
        blobs[key] = blob.part(position + 8, size)
        position += 8 + size
    if blobs.keys() != types.keys():
        raise damaged("a storage is missing")
    return _unwrap(top)


def _number(value):
    return value if type(value) is int and value.bit_length() <= 80 else None


def _unwrap(top):
    """The checkpoint in what `torch.save` was given."""
    meta = {}
    # A mapping may hold itself.
    for _ in range(5):
        if type(top) is not dict:
            raise Refused(f"holds a {type(top).__name__}, not a state dict: save `model.state_dict()`.")
        if type(top.get("meta")) is dict:
            meta = meta or plain(top["meta"])
        inner = next((name for name in WRAPPERS if type(top.get(name)) is dict), None)
        if inner is None:
            return Checkpoint(_state(top), meta)
        top = top[inner]
    raise Refused("holds mappings within mappings and no state dict: save `model.state_dict()`.")


def _state(mapping):
    tensors = {name: as_tensor(value) for name, value in mapping.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if not all(type(name) is str for name in tensors):
        raise Refused("holds tensors under keys that are no text: it is no state dict of a model.")
    if not tensors:
        raise Refused(
            f"holds no weights where they are expected: {len(mapping)} entries ({_some(mapping)}), no "
            f"tensor among them. A state dict may be the whole file or lie under {', '.join(WRAPPERS)}."
        )
    names = {name: re.sub(r"^(module\.)+", "", name) for name in tensors}
    twice = [name for name, count in collections.Counter(names.values()).items() if count > 1]
    if twice:
        raise Refused(f"holds {_some(twice)} with and without `module.` before it: which one to take?")
    return {names[name]: tensor for name, tensor in tensors.items()}


def _some(names):
    texts = [shown(name) if type(name) is str else type(name).__name__ for name in names]
    return ", ".join([*texts[:5], *["…"][: len(texts) > 5]])
