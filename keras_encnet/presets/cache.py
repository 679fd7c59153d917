"""The cache of converted models and downloads. Directories in it are always complete."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Callable, Iterator

from keras_encnet.files import locked_in_turn, remove_leftovers, replacing_directory

VARIABLE = "KERAS_ENCNET_CACHE"
FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_directory() -> pathlib.Path:
    """The directory of the cache, which may not exist yet.

    It is the environment variable `KERAS_ENCNET_CACHE`, or else `keras-encnet` in `XDG_CACHE_HOME`, or
    else `~/.cache/keras-encnet`.

    Raises:
        OSError: if none of these is known.
    """
    if os.environ.get(VARIABLE):
        return pathlib.Path(os.environ[VARIABLE]).expanduser().absolute()
    try:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(
            f"There is no home directory for downloaded models ({error}). Set the environment variable "
            f"{VARIABLE} to a writable directory."
        ) from error
    return pathlib.Path(base).absolute() / "keras-encnet"


def cached(name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """The directory `name` of the cache, created if needed.

    It is filled next to its final place, under a lock, and then renamed. So it is always complete, and
    only one of several processes does the work while the others wait.

    Args:
        name: a path relative to the cache, `"models/ade20k_r101"` for instance.
        make: function that fills an empty directory.

    Raises:
        OSError: if the cache cannot be written or the disk is full.
        Exception: whatever `make` raises.
    """
    directory = cache_directory() / name
    if directory.is_dir():
        return directory
    with contextlib.ExitStack() as stack:
        with explain_write_errors(directory.parent):
            directory.parent.mkdir(parents=True, exist_ok=True)
            lock = directory.with_name(f".{directory.name}.lock")
            stack.enter_context(locked_in_turn(lock, f"prepare {name}"))
        if not directory.is_dir():
            _fill(directory, make)
    return directory


@contextlib.contextmanager
def explain_write_errors(directory: pathlib.Path, *, full_only: bool = False) -> Iterator[None]:
    """Turns errors of writing to `directory` into an `OSError` that says what to do.

    With `full_only`, only errors about a full disk are changed.
    """
    try:
        yield
    except OSError as error:
        # HDF5 reports a full disk only in the message.
        if error.errno in FULL or "No space left on device" in str(error):
            raise OSError(
                f"The disk is full: {directory} has no space left. Free some, or set the environment "
                f"variable {VARIABLE} to a directory on another disk. Then try again."
            ) from error
        # Without an errno it is one of our own messages, which is already clear.
        if full_only or error.errno is None:
            raise
        raise OSError(
            f"{directory} cannot be written ({error}). Set the environment variable {VARIABLE} to a "
            "writable directory."
        ) from error


def _fill(directory, make):
    # Only the lock holder gets here, so leftovers are from killed processes.
    remove_leftovers(directory)
    with contextlib.ExitStack() as stack:
        with explain_write_errors(directory.parent):
            new = stack.enter_context(replacing_directory(directory))
        # Other errors of `make` are clear as they are.
        with explain_write_errors(directory.parent, full_only=True):
            make(new)
        with explain_write_errors(directory.parent):
            stack.close()
