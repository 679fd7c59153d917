"""How the layers that are made inside a `with` block are made: dtype policy, first kernels."""

import contextlib
import contextvars
from collections.abc import Iterator

import keras

_init_kernels = contextvars.ContextVar("init_kernels", default=True)


@contextlib.contextmanager
def default_policy(dtype: str | keras.DTypePolicy | None) -> Iterator[None]:
    """Layers made inside have the dtype policy `dtype`; `None` leaves the default as it is."""
    before = keras.config.dtype_policy()
    if dtype is not None:
        keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def skip_kernel_init() -> Iterator[None]:
    """Kernels of `ConvNorm` made inside start as zeros.

    Drawing random kernels takes most of the time of loading a model, and loading replaces them."""
    token = _init_kernels.set(False)
    try:
        yield
    finally:
        _init_kernels.reset(token)


def draws_kernels() -> bool:
    """Whether new kernels are drawn at random: always, except inside `skip_kernel_init`."""
    return _init_kernels.get()
