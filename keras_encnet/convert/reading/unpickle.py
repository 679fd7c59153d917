"""PyTorch's pickles, read without running what they ask for.

A pickle is a program that calls functions by name. Here a name gives a `Global`, which nobody can
call but this module; behind those that are known stand functions of our own, and behind
`mmengine.*` and `mmcv.*` an `Inert`. Any other name ends the reading at once.
"""

import math
import pickle
import re

import numpy as np

from keras_encnet.convert.reading.blobs import Refused, damaged
from keras_encnet.convert.reading.tensors import DTYPES, Storage, Tensor, in_memory, sizes, strided
from keras_encnet.convert.reading.zips import shown

# What a training run saves beside its weights, of no use here.
STAND_INS = ("mmengine", "mmcv")

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

# A pickle of a thousand tensors takes some 100,000 reads.
MAX_READS = 4_000_000
# What calls may copy beyond four times the file. A call costs a pickle three bytes, whatever it copies.
MAX_COPIED = 2**26

PLAIN_KEYS = (str, int, float, bool, bytes, type(None))


class Global:
    """What a name stands for: `make` builds its objects; without, it is only a name."""

    def __init__(self, name, make=None):
        self.name, self.make = name, make


class Inert:
    """Stands where an object of no use stood."""


class Dtype:
    """A NumPy dtype in the making; `value` is None where it is none that we need."""

    def __init__(self, code):
        simple = re.fullmatch("b1|[iu][1248]|f[248]|c8|c16|[SU][1-9][0-9]{0,5}", code)
        self.value = np.dtype(code) if simple else None


class Array:
    """A NumPy array in the making; `value` is None where its dtype is none that we need."""

    def __init__(self):
        self.value = None


class Reader:
    """A blob as the unpickler reads it: never beyond its end, and not for ever."""

    def __init__(self, blob):
        self.size = self._left = blob.size
        self._file, self._reads = blob.open(), 0

    @property
    def position(self):
        return self.size - self._left

    def read(self, count):
        self._count(count)
        return self._file.read(count)

    def readline(self):
        line = self._file.readline(self._left)
        if not line.endswith(b"\n"):
            raise damaged("its pickle ends in the middle of a line")
        self._count(len(line))
        return line

    def _count(self, count):
        if not 0 <= count <= self._left:
            raise damaged("its pickle ends in the middle")
        self._left -= count
        self._reads += 1
        if self._reads > MAX_READS:
            raise Refused(
                "has a pickle far longer than weights need. Save the model's `state_dict()` alone."
            )


class Unpickler(pickle._Unpickler):
    """Reads one pickle from a `Reader`; `storage` makes a `Storage` of a persistent id's fields.

    The pure-Python unpickler, because the one in C allocates what a pickle says before it looks.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, reader, storage=None):
        super().__init__(reader, encoding="latin1")
        self._storage = storage
        self._may_copy = MAX_COPIED + 4 * reader.size
        self._globals = self._table()

    def find_class(self, module, name):
        self._copy(module, name)
        if module.split(".")[0] in STAND_INS:
            return Inert()
        full = f"{MODULES.get(module, module)}.{name}"
        if full not in self._globals:
            raise _unwanted(f"{module}.{name}")
        return self._globals[full]

    def persistent_load(self, pid):
        if self._storage is None or type(pid) is not tuple or not pid:
            raise damaged("a reference that leads nowhere")
        if pid[0] == "module":
            raise Refused(
                "holds a whole model, code included, not its weights. Save its `state_dict()` instead."
            )
        kind, key, _, count, *view = pid[1:]
        if pid[0] != "storage" or type(kind) is not Global or type(key) is not str:
            raise damaged("a reference to something that is no storage")
        dtype = STORAGES[kind.name.split(".")[-1]]
        (count,) = sizes((count,))
        return self._storage(dtype, key, count * DTYPES[dtype][0], *view)

    def _call(self, function, arguments):
        if type(function) is Inert:
            return Inert()
        if type(function) is not Global or type(arguments) is not tuple:
            raise damaged(f"a call of a {type(function).__name__}")
        if function.make is None:
            raise Refused(f"calls {shown(function.name)}, which weights do not need.")
        self._copy(*arguments)
        return function.make(*arguments)

    def _copy(self, *values):
        sized = (str, bytes, list, tuple, dict, set, frozenset)
        self._may_copy -= sum(len(value) for value in values if type(value) in sized)
        if self._may_copy < 0:
            raise Refused("has a pickle that copies the same data over and over: a bomb, not weights.")

    # What the objects are: the names that a pickle may use, anew for each pickle.

    def _table(self):
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
            "torch._utils._rebuild_tensor": _rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
            "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
            "torch._utils._rebuild_parameter": _tensor,
            "torch._utils._rebuild_parameter_with_state": _tensor,
            "torch._tensor._rebuild_from_type_v2": self._rebuild_from_type,
            **{f"torch.{dtype}": None for dtype in DTYPES},
            **{f"torch.{kind}": None for kind in STORAGES},
        }
        return {name: Global(name, make) for name, make in makers.items()}

    def _rebuild_from_type(self, function, kind, arguments, state=None):
        return _tensor(self._call(function, arguments))

    # The opcodes that call, fill or change objects; the others make plain values.

    def _reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(self._call(function, arguments))

    def _newobj_ex(self):
        keywords = self.stack.pop()
        if keywords and type(self.stack[-2]) is not Inert:
            raise damaged("a call with keywords")
        self._reduce()

    def _instantiate(self, function, arguments):
        self.append(self._call(function, tuple(arguments)))

    def _build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Array:
            *_, shape, dtype, fortran, raw = state
            self._copy(raw)
            target.value = _array(shape, dtype, raw, "F" if fortran else "C")
        elif type(target) is Dtype:
            if target.value is not None and state[1] in ("<", ">"):
                target.value = target.value.newbyteorder(state[1])
        # `_metadata` of a state dict, attributes of a parameter.
        elif type(target) not in (Inert, dict, Tensor):
            raise Refused(f"changes a {type(target).__name__} from inside: weights do not need that.")

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
            raise damaged(f"items for a {type(target).__name__}")

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
            raise damaged(f"entries for a {type(target).__name__}")

    def _dict(self):
        self.append(dict(_pairs(self.pop_mark())))

    def _additems(self):
        items, target = self.pop_mark(), self.stack[-1]
        if type(target) is set:
            target.update(map(_key, items))
        elif type(target) is not Inert:
            raise damaged(f"members for a {type(target).__name__}")

    def _frozenset(self):
        self.append(frozenset(map(_key, self.pop_mark())))

    def _bytearray8(self):
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def _frame(self):
        # Frames only say how much to read ahead.
        self.read(8)

    def _extension(self):
        raise Refused("uses a copyreg extension, which weights do not need. It was not looked up.")

    def _buffer(self):
        raise damaged("a buffer outside the pickle")

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


# One name for what moved: Python 2's modules, NumPy 2's, PyTorch's before 1.9, its CUDA storages.
MODULES = {
    "__builtin__": "builtins",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "torch.tensor": "torch._tensor",
    "torch.storage": "torch",
    "torch.cuda": "torch",
}


def plain(value):
    """A copy of the values of a pickle without what is no plain value.

    Dictionary entries that stood for objects are left out, in lists and tuples they become None.

    Raises:
        Refused: if it is nested more than 100 deep.
    """
    copy = _plain(value, {}, 0)
    return None if copy is _NOTHING else copy


_NOTHING = object()


def _plain(value, done, depth):
    if depth > 100:
        raise Refused("has metadata nested more than 100 deep, which no program writes.")
    if id(value) in done:
        return done[id(value)]
    kind = type(value)
    if kind is dict:
        done[id(value)] = copy = {}
        for key, entry in value.items():
            entry = _plain(entry, done, depth + 1)
            if _is_plain_key(key) and entry is not _NOTHING:
                copy[key] = entry
        return copy
    if kind in (list, tuple):
        done[id(value)] = copy = []
        for item in value:
            item = _plain(item, done, depth + 1)
            copy.append(None if item is _NOTHING else item)
        if kind is tuple:
            done[id(value)] = copy = tuple(copy)
        return copy
    if kind in (set, frozenset):
        return {key for key in value if _is_plain_key(key)}
    if kind is Array and value.value is not None:
        return value.value.copy()
    return value if kind in (*PLAIN_KEYS, complex, Tensor) else _NOTHING


def as_tensor(value):
    """A tensor or a NumPy array of numbers as a `Tensor`; None for anything else."""
    if type(value) is Array and value.value is not None and value.value.dtype.name in DTYPES:
        return in_memory(value.value)
    return value if type(value) is Tensor else None


def _unwanted(name):
    return Refused(
        f"asks for {shown(name)}, which weights do not need and which may do anything. It was neither "
        "imported nor called. If you trust the file, load it with PyTorch and save the model's "
        "`state_dict()` alone."
    )


def _items(values):
    if type(values) not in (list, tuple, set, frozenset):
        raise damaged(f"the items of a {type(values).__name__}")
    return values


def _numbers(values):
    if not all(type(value) in (int, float) for value in values):
        raise damaged("a number made of something else")
    return values


def _key(value):
    # Hashing a deep tuple, one that repeats itself, or a huge number, takes the stack or for ever.
    if not _is_plain_key(value) and type(value) not in (Inert, Global):
        raise damaged(f"a {type(value).__name__} as a key")
    return value


def _is_plain_key(value):
    parts = value if type(value) is tuple else (value,)
    return all(
        type(part) in PLAIN_KEYS and (type(part) is not int or part.bit_length() <= 64)
        for part in parts
    )


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
    if type(value) is list:  # Python 2 has no other way to say it
        return bytes(_numbers(value))
    if type(value) is not bytes:
        raise damaged(f"bytes of a {type(value).__name__}")
    return value


def _encode(text, encoding="utf-8", errors="strict"):
    if type(text) is not str or type(encoding) is not str:
        raise damaged("an encoding of what is no text")
    if encoding.lower() not in ("latin1", "latin-1", "iso-8859-1", "utf-8", "utf8", "ascii"):
        raise Refused(f"encodes with {shown(encoding)}, which weights do not need.")
    return text.encode(encoding)


def _getattr(target, name, default=None):
    if type(target) is not Inert or type(name) is not str:
        kind = target.name if type(target) is Global else type(target).__name__
        raise _unwanted(f"getattr of {kind}")
    return Inert()


def _array(shape, dtype, raw, order):
    if type(dtype) is not Dtype:
        raise damaged("an array without a type")
    if dtype.value is None:
        return None
    shape = sizes(shape)
    raw = raw.encode("latin-1") if type(raw) is str else raw
    if type(raw) is not bytes or len(raw) != math.prod(shape) * dtype.value.itemsize:
        raise damaged(f"an array of shape {shape} with other data")
    array = np.ndarray(shape, dtype.value, raw or b"\0", order=order)
    if dtype.value.kind == "U":
        array.tolist()  # raises if a character is none
    return array


def _scalar(dtype, raw=b""):
    value = _array((), dtype, raw, "C")
    return Inert() if value is None else value.item()


def _frombuffer(raw, dtype, shape, order):
    array = Array()
    array.value = _array(shape, dtype, raw, "F" if order == "F" else "C")
    return array


def _tensor(value, *_):
    if as_tensor(value) is None:
        raise damaged("a parameter that is no tensor")
    return value


def _rebuild_tensor(storage, offset, shape, strides, *_):
    if type(storage) is not Storage:
        raise damaged("a tensor without a storage")
    return strided(storage, offset, shape, strides, storage.dtype)


def _rebuild_tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, *_):
    return strided(storage, offset, shape, strides, dtype.name.removeprefix("torch."))
