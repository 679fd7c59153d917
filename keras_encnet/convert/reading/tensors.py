"""Tensors in a file: shape and dtype are known, values are read on access."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from keras_encnet.convert.reading.blobs import Blob
from keras_encnet.convert.reading.budget import Budget
from keras_encnet.convert.reading.errors import Refused, damaged

# PyTorch's dtypes → (bytes per element, NumPy's code for reading them; `None` if NumPy has none).
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


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that stays in its file until its values are accessed.

    `dtype` is PyTorch's name of the type. Each call of `numpy()` or `numpy.asarray(tensor)` reads the
    file. `cost` is the memory that this takes, in bytes.
    """

    shape: tuple[int, ...]
    dtype: str
    cost: int = dataclasses.field(repr=False)
    _read: Callable[[], np.ndarray] = dataclasses.field(repr=False)

    def numpy(self) -> np.ndarray:
        """The values, as a new C-contiguous array of this shape.

        `bfloat16`, which NumPy lacks, becomes `float32`, which is exact. Other dtypes are kept.

        Raises:
            ValueError: if NumPy lacks the dtype (`float8_…`), or the file became shorter.
        """
        return self._read()

    def __array__(self, dtype=None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(
                "`copy` must be True or None: the values are read from a file. Received: False"
            )
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """`size` bytes that tensors are views of; `locate()` returns where they are in the file."""

    dtype: str
    size: int
    locate: Callable[[], Blob]
    byteorder: str = "<"


def strided(
    storage: Storage,
    offset: int,
    shape: Sequence[int],
    strides: Sequence[int],
    dtype: str,
    budget: Budget,
) -> Tensor:
    """A tensor that is a view of a storage, with PyTorch's offset and strides (in elements).

    It takes nothing of the budget before its values are read.

    Raises:
        Refused: if it reaches beyond the storage, or expands a few bytes into a huge tensor.
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
        raise damaged("a shape too large for any file")
    if total > max(storage.size, budget.left):
        raise Refused(
            f"expands {span * itemsize} bytes into a tensor of {total} bytes, which weights do not "
            "need. Clone the tensors of the model's `state_dict()` and save them again."
        )

    def read():
        return _values(storage, offset * itemsize, span, shape, strides, dtype)

    # The bytes that a view skips are read too.
    return Tensor(shape, dtype, max(total, span * itemsize), read)


def contiguous(blob: Blob, shape: Sequence[int], dtype: str) -> Tensor:
    """The tensor that a `Blob` holds in C order.

    Raises:
        Refused: if the `Blob` has another size than the tensor.
    """
    shape = sizes(shape)
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    if blob.size != DTYPES[dtype][0] * math.prod(shape):
        raise damaged(f"{blob.size} bytes for a tensor of shape {shape} and type {dtype}")
    storage = Storage(dtype, blob.size, lambda: blob)
    return strided(storage, 0, shape, strides, dtype, blob.budget)


def in_memory(array: np.ndarray) -> Tensor:
    """A NumPy array that the pickle itself contains, as a tensor."""
    native = array.dtype.newbyteorder("=")
    return Tensor(array.shape, native.name, array.nbytes, lambda: np.array(array, native, order="C"))


def sizes(values: Sequence[int]) -> tuple[int, ...]:
    """`values` as a tuple.

    Raises:
        Refused: if they cannot be sizes, strides or offsets.
    """
    if type(values) not in (tuple, list) or len(values) > MAX_DIMENSIONS:
        raise damaged("an invalid shape")
    if not all(type(value) is int and 0 <= value < 2**48 for value in values):
        raise damaged("a size, stride or offset that is negative, too large or not an integer")
    return tuple(values)


def _values(storage, start, span, shape, strides, dtype):
    itemsize, code = DTYPES[dtype]
    blob = storage.locate()
    if code is None:
        raise ValueError(
            f"{blob.file.name} has a tensor of the dtype {dtype}, which NumPy lacks. Convert it in "
            "PyTorch with `tensor.float()` and save it again."
        )
    code = np.dtype(code)
    raw = blob.part(start if span else 0, span * itemsize).read()
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
