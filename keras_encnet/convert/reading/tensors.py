"""Tensors of a file: shape and dtype at once, values when they are asked for."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from keras_encnet.convert.reading.blobs import Refused, damaged

# PyTorch's dtypes → (bytes an element, NumPy's code for the bytes; None: NumPy has none).
DTYPES = {
    "float64": (8, "f8"),
    "float32": (4, "f4"),
    "float16": (2, "f2"),
    "bfloat16": (2, "u2"),
    "int64": (8, "i8"),
    "int32": (4, "i4"),
    "int16": (2, "i2"),
    "int8": (1, "i1"),
    "uint64": (8, "u8"),
    "uint32": (4, "u4"),
    "uint16": (2, "u2"),
    "uint8": (1, "u1"),
    "bool": (1, "u1"),
    "complex64": (8, "c8"),
    "complex128": (16, "c16"),
    "float8_e4m3fn": (1, None),
    "float8_e4m3fnuz": (1, None),
    "float8_e5m2": (1, None),
    "float8_e5m2fnuz": (1, None),
    "float8_e8m0fnu": (1, None),
}

MAX_DIMENSIONS = 32
# A tensor may be larger than the numbers that it repeats, but not without end.
MAX_EXPANDED_BYTES = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that stays in its file until its values are taken.

    `shape` is a tuple, `dtype` PyTorch's name of the type. `numpy()` and `numpy.asarray(tensor)`
    read the file, each time anew.
    """

    shape: tuple
    dtype: str
    _read: Callable = dataclasses.field(repr=False)

    def numpy(self):
        """The values, as a new C-contiguous array of this shape.

        `bfloat16`, which NumPy lacks, becomes `float32` and loses nothing; other types stay.

        Raises:
            ValueError: if NumPy has no such type (`float8_…`), or the file changed meanwhile.
        """
        return self._read()

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("The values are in a file: reading them copies. Leave out copy=False.")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """`size` bytes that tensors are views of, in the file at `locate()`, a `Blob`."""

    dtype: str
    size: int
    locate: Callable
    byteorder: str = "<"


def strided(storage, offset, shape, strides, dtype):
    """The view of a storage that PyTorch describes by offset and strides, all in elements.

    Raises:
        Refused: if it reaches beyond the storage, or repeats its numbers into a huge tensor.
    """
    if type(storage) is not Storage or dtype not in DTYPES:
        raise damaged("a tensor without a storage")
    shape, strides = sizes(shape), sizes(strides)
    (offset,) = sizes((offset,))
    if len(shape) != len(strides):
        raise damaged(f"a tensor with {len(shape)} sizes and {len(strides)} strides")
    itemsize, _ = DTYPES[dtype]
    span = 0
    if 0 not in shape:
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if (offset + span) * itemsize > storage.size:
            raise damaged(f"a tensor reaches beyond its storage of {storage.size} bytes")
    total = itemsize * math.prod(shape)
    if math.prod(size for size in shape if size) >= 2**56:
        raise damaged("a shape beyond all files")
    if total > max(storage.size, MAX_EXPANDED_BYTES):
        raise Refused(
            f"repeats {span * itemsize} bytes into a tensor of {total}. No checkpoint of ours needs "
            "that; save the model's `state_dict()` again with its tensors cloned."
        )

    def read():
        return _values(storage, offset * itemsize, span, shape, strides, dtype)

    return Tensor(shape, dtype, read)


def contiguous(blob, shape, dtype):
    """The tensor that a `Blob` holds in C order."""
    shape = sizes(shape)
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    if blob.size != DTYPES[dtype][0] * math.prod(shape):
        raise damaged(f"{blob.size} bytes for a tensor of shape {shape} and type {dtype}")
    return strided(Storage(dtype, blob.size, lambda: blob), 0, shape, strides, dtype)


def in_memory(array):
    """An array that came with the pickle, as a tensor."""
    native = array.dtype.newbyteorder("=")
    return Tensor(array.shape, native.name, lambda: np.array(array, native, order="C"))


def sizes(values):
    """`values` as a tuple, if they can be sizes, strides or offsets."""
    if type(values) not in (tuple, list) or len(values) > MAX_DIMENSIONS:
        raise damaged("a shape that is none")
    if not all(type(value) is int and 0 <= value < 2**48 for value in values):
        raise damaged("a size, a stride or an offset that is no natural number, or beyond all files")
    return tuple(values)


def _values(storage, start, span, shape, strides, dtype):
    itemsize, code = DTYPES[dtype]
    if code is None:
        raise ValueError(
            f"A tensor is of type {dtype}, which NumPy lacks. Convert it with PyTorch, "
            "`tensor.float()`, and save again."
        )
    code = np.dtype(code)
    raw = storage.locate().part(start, span * itemsize).read()
    flat = raw.view(code.newbyteorder(storage.byteorder)).astype(code, copy=False)
    if span == 0:
        array = np.empty(shape, code)
    else:
        array = np.lib.stride_tricks.as_strided(flat, shape, [s * itemsize for s in strides])
    if dtype == "bfloat16":
        wide = array.astype(np.uint32, order="C")
        wide <<= 16
        return wide.view(np.float32)
    if dtype == "bool":
        return array.astype(bool, order="C")
    return array if array.flags.c_contiguous else array.copy()
