"""How layers are made: dtype policy, first kernels, or without memory for their weights."""

import concurrent.futures
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.saving.serialization_lib import SafeModeScope, in_safe_mode

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


def without_memory(function: Callable[[], Any]) -> Any:
    """The result of a function that makes layers, whose weights have names and shapes but no memory.

    >>> def huge():
    ...     layer = keras_encnet.layers.Encoding(32)
    ...     layer.build((None, None, 10**9))
    ...     return tuple(layer.codewords.shape)
    >>> without_memory(huge)
    (32, 1000000000)
    """

    def call():
        # Keras keeps a list, for each thread, of the variables that it still has to fill. This thread
        # ends, and nobody asks for them.
        with SafeModeScope(safe_mode), keras.StatelessScope(initialize_variables=False):
            return function()

    # What `keras.config.enable_unsafe_deserialization` has set in the caller's thread.
    safe_mode = in_safe_mode()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()
