"""Reads PyTorch's pickles without executing what they ask for.

A pickle is a program that calls functions by name. Here a name becomes a `Global`, which only this
module can call. Known names map to functions of this module, names in `mmengine` and `mmcv` to an
`Inert` placeholder. Any other name is an error.

This module depends on `pickle._Unpickler` and its table of opcodes, `dispatch`, which are private parts
of the standard library. The public `pickle.Unpickler` is not enough: it allocates the sizes that a
pickle declares before it reads the data, and a subclass can control which objects names refer to, but
not the opcodes that call, fill and hash objects. `tests/convert/reading/test_hostile.py` checks that
the replacements take effect.
"""

import math
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_encnet.convert.reading.blobs import Blob
from keras_encnet.convert.reading.budget import Budget
from keras_encnet.convert.reading.errors import Refused, damaged, quoted
from keras_encnet.convert.reading.tensors import DTYPES, Storage, Tensor, in_memory, sizes, strided

# Packages of the other objects that training runs save. Each is replaced by an `Inert`.
INERT_PACKAGES = ("mmengine", "mmcv")

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}

# The bytes that Python's objects take at most: what an opcode or an item of a container brings, an
# empty set, what a call or a storage brings besides copies, and a character of a string. A pickle of a
# thousand tensors has about 100,000 opcodes.
ITEM, SET, CALL, CHARACTER = 128, 256, 1024, 4

PLAIN_KEYS = (str, int, float, bool, bytes, type(None))
CONTAINERS = (list, tuple, dict, set, frozenset)
# Programs have pairs and triples as keys.
MAX_KEY = 8


class Global:
    """What a name refers to; `make` builds its objects, `None` if it must not be called."""

    def __init__(self, name: str, make: Callable | None = None):
        self.name, self.make = name, make


class Inert:
    """Replaces an object that is not needed."""

    __slots__ = ()


class Dtype:
    """A NumPy dtype under construction; `value` is `None` if the dtype is not supported."""

    def __init__(self, code: str):
        simple = re.fullmatch("b1|[iu][1248]|f[248]|c8|c16|[SU][1-9][0-9]{0,5}", code)
        self.value = np.dtype(code) if simple else None


class Array:
    """A NumPy array under construction; `value` is `None` if its dtype is not supported."""

    def __init__(self):
        self.value = None


class Reader:
    """The file that an unpickler reads: the bytes of a `Blob`. Each read draws on its budget."""

    def __init__(self, blob: Blob):
        self.budget = blob.budget
        self._size = self._left = blob.size
        self._file = blob.open()

    @property
    def position(self) -> int:
        return self._size - self._left

    def read(self, count: int) -> bytes:
        self._count(count)
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(self._left)
        if not line.endswith(b"\n"):
            raise damaged("its pickle ends in the middle of a line")
        self._count(len(line))
        return line

    def _count(self, count):
        if not 0 <= count <= self._left:
            raise damaged("its pickle ends in the middle")
        self._left -= count
        self.budget.spend(ITEM + CHARACTER * count)


class Unpickler(pickle._Unpickler):
    """Reads one pickle with `load()`.

    Args:
        reader: where to read it.
        storage: a function that returns a `Storage`, given the fields of a persistent id: dtype, key,
            size in bytes, and the view in old files. Without it, persistent ids are errors.

    Raises:
        Refused: if the pickle is damaged or asks for more than weights need.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, reader: Reader, storage: Callable[..., Storage] | None = None):
        super().__init__(reader, encoding="latin1")
        self._storage = storage
        self._budget = reader.budget
        self._globals = self._table()

    def find_class(self, module: str, name: str) -> Global | Inert:
        self._spend_copies(module, name)
        if module.split(".")[0] in INERT_PACKAGES:
            return Inert()
        full = f"{MODULES.get(module, module)}.{name}"
        if full not in self._globals:
            raise _unwanted(f"{module}.{name}")
        return self._globals[full]

    def persistent_load(self, pid: tuple) -> Storage:
        if self._storage is None or type(pid) is not tuple or not pid:
            raise damaged("an invalid reference")
        if pid[0] == "module":
            raise Refused(
                "holds a complete model with its code. Save the model's `state_dict()` instead."
            )
        self._budget.spend(CALL)
        kind, key, _, count, *view = pid[1:]
        if pid[0] != "storage" or type(kind) is not Global or type(key) is not str:
            raise damaged("a reference to something other than a storage")
        dtype = STORAGES[kind.name.split(".")[-1]]
        (count,) = sizes((count,))
        return self._storage(dtype, key, count * DTYPES[dtype][0], *view)

    def _call(self, function, arguments):
        if type(function) is Inert:
            return Inert()
        if type(function) is not Global or type(arguments) is not tuple:
            raise damaged(f"a call of a {type(function).__name__}")
        if function.make is None:
            raise Refused(f"calls {quoted(function.name)}, which weights do not need.")
        self._budget.spend(CALL)
        self._spend_copies(*arguments)
        return function.make(*arguments)

    def _spend_copies(self, *values):
        """A call takes three bytes in a pickle, no matter how much it copies."""
        for value in values:
            self._budget.spend(_copy_cost(value))

    def _table(self):
        """The names that a pickle may use, and what they refer to."""
        makers = {
            "collections.OrderedDict": _dict,
            "collections.Counter": _dict,
            "collections.defaultdict": lambda factory=None, items=(): _dict(items),
            "collections.deque": lambda items=(), maxlen=None: list(_items(items)),
            "builtins.dict": _dict,
            "builtins.list": lambda items=(): list(_items(items)),
            "builtins.tuple": lambda items=(): tuple(_items(items)),
            "builtins.set": lambda items=(): _set(items),
            "builtins.frozenset": lambda items=(): frozenset(_set(items)),
            "builtins.bytes": _bytes,
            "builtins.bytearray": _bytes,
            "builtins.complex": lambda *parts: complex(*_numbers(parts)),
            "builtins.int": None,
            "builtins.float": None,
            "builtins.bool": None,
            "builtins.str": None,
            "builtins.slice": lambda *_: Inert(),
            "builtins.range": lambda *_: Inert(),
            "builtins.getattr": _getattr,
            "_codecs.encode": _encode,
            "numpy.ndarray": None,
            "numpy.dtype": lambda code, *_: Dtype(code),
            "numpy.core.multiarray._reconstruct": lambda *_: Array(),
            "numpy.core.multiarray.scalar": _scalar,
            "numpy.core.numeric._frombuffer": _frombuffer,
            "torch.Size": lambda items=(): sizes(items),
            "torch.device": lambda *_: Inert(),
            "torch.Tensor": None,
            "torch.nn.parameter.Parameter": _tensor,
            "torch._utils._rebuild_tensor": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v3": self._rebuild_tensor_v3,
            "torch._utils._rebuild_parameter": _tensor,
            "torch._utils._rebuild_parameter_with_state": _tensor,
            "torch._tensor._rebuild_from_type_v2": self._rebuild_from_type,
            **{f"torch.{dtype}": None for dtype in DTYPES},
            **{f"torch.{kind}": None for kind in STORAGES},
        }
        return {name: Global(name, make) for name, make in makers.items()}

    def _rebuild_tensor(self, storage, offset, shape, strides, *_, dtype=None):
        if type(storage) is not Storage:
            raise damaged("a tensor without a storage")
        return strided(storage, offset, shape, strides, dtype or storage.dtype, self._budget)

    def _rebuild_tensor_v3(self, storage, offset, shape, strides, requires_grad, hooks, dtype, *_):
        dtype = dtype.name.removeprefix("torch.")
        return self._rebuild_tensor(storage, offset, shape, strides, dtype=dtype)

    def _rebuild_from_type(self, function, kind, arguments, state=None):
        return _tensor(self._call(function, arguments))

    # The opcodes that call, fill or change objects. The other opcodes make plain values.

    def _reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(self._call(function, arguments))

    def _newobj_ex(self):
        keywords = self.stack.pop()
        if keywords and type(self.stack[-2]) is not Inert:
            raise damaged("a call with keyword arguments")
        self._reduce()

    def _instantiate(self, function, arguments):
        self.append(self._call(function, tuple(arguments)))

    def _build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Array:
            *_, shape, dtype, fortran, raw = state
            self._spend_copies(raw)
            target.value = _array(shape, dtype, raw, "F" if fortran else "C")
        elif type(target) is Dtype:
            if target.value is not None and state[1] in ("<", ">"):
                target.value = target.value.newbyteorder(state[1])
        # `_metadata` of a state dict and attributes of a parameter are ignored.
        elif type(target) not in (Inert, dict, Tensor):
            raise Refused(f"sets attributes of a {type(target).__name__}, which weights do not need.")

    def _append(self):
        value = self.stack.pop()
        self._extend([value])

    def _appends(self):
        self._extend(self.pop_mark())

    def _extend(self, items):
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Inert:
            raise damaged(f"items added to a {type(target).__name__}")

    def _setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self):
        self._update(self.pop_mark())

    def _update(self, items):
        target = self.stack[-1]
        if type(target) is dict:
            target.update(_pairs(items))
        elif type(target) is not Inert:
            raise damaged(f"entries added to a {type(target).__name__}")

    def _dict(self):
        self.append(dict(_pairs(self.pop_mark())))

    def _empty_set(self):
        self._budget.spend(SET)
        self.append(set())

    def _additems(self):
        items, target = self.pop_mark(), self.stack[-1]
        if type(target) is set:
            target.update(map(_key, items))
        elif type(target) is not Inert:
            raise damaged(f"members added to a {type(target).__name__}")

    def _frozenset(self):
        self._budget.spend(SET)
        self.append(frozenset(map(_key, self.pop_mark())))

    def _bytearray8(self):
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def _frame(self):
        # The size of a frame is only a hint for reading ahead.
        self.read(8)

    def _extension(self):
        raise Refused("uses a copyreg extension, which weights do not need. It was not looked up.")

    def _buffer(self):
        raise damaged("an out-of-band buffer")

    dispatch.update(
        {
            pickle.REDUCE[0]: _reduce,
            pickle.NEWOBJ[0]: _reduce,
            pickle.NEWOBJ_EX[0]: _newobj_ex,
            pickle.BUILD[0]: _build,
            pickle.APPEND[0]: _append,
            pickle.APPENDS[0]: _appends,
            pickle.SETITEM[0]: _setitem,
            pickle.SETITEMS[0]: _setitems,
            pickle.DICT[0]: _dict,
            pickle.EMPTY_SET[0]: _empty_set,
            pickle.ADDITEMS[0]: _additems,
            pickle.FROZENSET[0]: _frozenset,
            pickle.BYTEARRAY8[0]: _bytearray8,
            pickle.FRAME[0]: _frame,
            pickle.EXT1[0]: _extension,
            pickle.EXT2[0]: _extension,
            pickle.EXT4[0]: _extension,
            pickle.NEXT_BUFFER[0]: _buffer,
            pickle.READONLY_BUFFER[0]: _buffer,
        }
    )


# Modules with other names in Python 2, in NumPy 2, in PyTorch before 1.9 and for CUDA storages.
MODULES = {
    "__builtin__": "builtins",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "torch.tensor": "torch._tensor",
    "torch.storage": "torch",
    "torch.cuda": "torch",
}


def plain(value: Any, budget: Budget) -> Any:
    """A copy of the values of a pickle that holds only plain values.

    Other objects are left out of dicts and become `None` in lists and tuples. Entries whose key is a
    tuple are left out too. What occurs several times is copied once.

    Raises:
        Refused: if the values are nested more than 100 levels deep, or take more than the budget.
    """
    copy = _plain(value, {}, 0, budget)
    return None if copy is _NOTHING else copy


_NOTHING = object()


def _plain(value, done, depth, budget):
    if depth > 100:
        raise Refused("has metadata nested more than 100 levels deep, which no program writes.")
    if id(value) in done:
        return done[id(value)]
    kind = type(value)
    if kind in CONTAINERS:
        budget.spend(_copy_cost(value))
    if kind is dict:
        done[id(value)] = copy = {}
        for key, entry in value.items():
            entry = _plain(entry, done, depth + 1, budget)
            if _is_plain_key(key) and entry is not _NOTHING:
                copy[key] = entry
        return copy
    if kind in (list, tuple):
        done[id(value)] = copy = []
        for item in value:
            item = _plain(item, done, depth + 1, budget)
            copy.append(None if item is _NOTHING else item)
        if kind is tuple:
            done[id(value)] = copy = tuple(copy)
        return copy
    if kind in (set, frozenset):
        done[id(value)] = copy = {key for key in value if _is_plain_key(key)}
        return copy
    if kind is Array and value.value is not None:
        budget.spend(ITEM + value.value.nbytes)
        done[id(value)] = copy = value.value.copy()
        return copy
    return value if kind in (*PLAIN_KEYS, complex, Tensor) else _NOTHING


def as_tensor(value: Any) -> Tensor | None:
    """A tensor or a NumPy array of numbers as a `Tensor`; `None` for anything else."""
    if type(value) is Array and value.value is not None and value.value.dtype.name in DTYPES:
        return in_memory(value.value)
    return value if type(value) is Tensor else None


def _unwanted(name):
    return Refused(
        f"asks for {quoted(name)}, which weights do not need and which could run any code. It was "
        "neither imported nor called. If you trust the file, load it with PyTorch and save only the "
        "model's `state_dict()`."
    )


def _items(values):
    if type(values) not in (list, tuple, set, frozenset):
        raise damaged(f"items taken from a {type(values).__name__}")
    return values


def _numbers(values):
    if not all(type(value) in (int, float) for value in values):
        raise damaged("a value that is not a number")
    return values


def _key(value):
    # Hashing deep or self-repeating tuples, or huge numbers, overflows the stack or takes very long.
    # Other tuples can be chosen to have the same hash, and filling a dict with them takes very long.
    if type(value) is tuple and len(value) <= MAX_KEY and all(map(_is_plain_key, value)):
        return Inert()
    if not _is_plain_key(value) and type(value) not in (Inert, Global):
        raise damaged(f"a {type(value).__name__} as a key")
    return value


def _is_plain_key(value):
    return type(value) in PLAIN_KEYS and (type(value) is not int or value.bit_length() <= 64)


def _copy_cost(value):
    """The memory that a copy of a value in another container or string takes at most."""
    kind = type(value)
    if kind in CONTAINERS:
        return SET + ITEM * len(value)
    if kind is str:
        return CHARACTER * len(value)
    return len(value) if kind is bytes else 0


def _pairs(items):
    if len(items) % 2:
        raise damaged("a key without a value")
    return zip(map(_key, items[::2]), items[1::2], strict=True)


def _dict(items=()):
    if type(items) is dict:
        return dict(items)
    pairs = [_items(pair) for pair in _items(items)]
    return {_key(key): value for key, value in pairs}


def _set(items):
    return {_key(item) for item in _items(items)}


def _bytes(value=b"", encoding="latin-1", errors="strict"):
    if type(value) is str:
        return _encode(value, encoding)
    if type(value) is list:  # as in pickles of Python 2
        return bytes(_numbers(value))
    if type(value) is not bytes:
        raise damaged(f"bytes made from a {type(value).__name__}")
    return value


def _encode(text, encoding="utf-8", errors="strict"):
    if type(text) is not str or type(encoding) is not str:
        raise damaged("an encoding of something other than text")
    if encoding.lower() not in ("latin1", "latin-1", "iso-8859-1", "utf-8", "utf8", "ascii"):
        raise Refused(f"encodes with {quoted(encoding)}, which weights do not need.")
    return text.encode(encoding)


def _getattr(target, name, default=None):
    if type(target) is not Inert or type(name) is not str:
        kind = target.name if type(target) is Global else type(target).__name__
        raise _unwanted(f"getattr of {kind}")
    return Inert()


def _array(shape, dtype, raw, order):
    if type(dtype) is not Dtype:
        raise damaged("an array without a dtype")
    if dtype.value is None:
        return None
    shape = sizes(shape)
    raw = raw.encode("latin-1") if type(raw) is str else raw
    if type(raw) is not bytes or len(raw) != math.prod(shape) * dtype.value.itemsize:
        raise damaged(f"an array of shape {shape} with data of another size")
    if dtype.value.kind == "U":
        codes = np.frombuffer(raw, np.dtype("u4").newbyteorder(dtype.value.byteorder))
        if (codes > sys.maxunicode).any():
            raise damaged("an array of text with an invalid character")
    return np.ndarray(shape, dtype.value, raw or b"\0", order=order)


def _scalar(dtype, raw=b""):
    value = _array((), dtype, raw, "C")
    return Inert() if value is None else value.item()


def _frombuffer(raw, dtype, shape, order):
    array = Array()
    array.value = _array(shape, dtype, raw, "F" if order == "F" else "C")
    return array


def _tensor(value, *_):
    if as_tensor(value) is None:
        raise damaged("a parameter that is not a tensor")
    return value
