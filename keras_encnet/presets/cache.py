"""Where converted models and downloads are kept, and how they get there whole."""

import contextlib
import errno
import os
import pathlib
import sys

from keras_encnet.files import remove_leftovers, replacing_directory

VARIABLE = "KERAS_ENCNET_CACHE"
FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_directory():
    """The directory of the cache, which need not exist yet.

    It is the environment variable `KERAS_ENCNET_CACHE`, else `keras-encnet` in `XDG_CACHE_HOME`, else
    `~/.cache/keras-encnet`.

    Raises:
        OSError: if none of these is known.
    """
    if os.environ.get(VARIABLE):
        return pathlib.Path(os.environ[VARIABLE]).expanduser().absolute()
    try:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(
            f"There is no home directory to keep downloaded models in ({error}). Set the environment "
            f"variable {VARIABLE} to a directory that can be written."
        ) from error
    return pathlib.Path(base).absolute() / "keras-encnet"


def cached(name, make):
    """The directory `name` of the cache, made first where it is not there yet.

    It is filled beside its place and then renamed, under a lock: whoever finds it finds it whole, and
    of several processes one does the work while the others wait.

    Args:
        name: a path relative to the cache, `"presets/ade20k_r101"` for instance.
        make: a function of an empty directory that fills it.

    Raises:
        OSError: if the cache cannot be written or the disk is full; and whatever `make` raises.
    """
    directory = cache_directory() / name
    if directory.is_dir():
        return directory
    with explained(directory.parent):
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(directory.with_name(f".{directory.name}.lock"), name)
    try:
        if not directory.is_dir():
            _fill(directory, make)
    finally:
        lock.release()
    return directory


@contextlib.contextmanager
def explained(directory, *, full_only=False):
    """Inside, what goes wrong with writing to `directory` is raised as an `OSError` that says what to
    do; with `full_only` only that the disk is full."""
    try:
        yield
    except OSError as error:
        # HDF5 reports a full disk in words alone.
        if error.errno in FULL or "No space left on device" in str(error):
            raise OSError(
                f"The disk is full: {directory} has no space left. Free some, or set the environment "
                f"variable {VARIABLE} to a directory on another disk; then do the same again."
            ) from error
        # Without a number it is a message of our own, which says it all.
        if full_only or error.errno is None:
            raise
        raise OSError(
            f"{directory} cannot be written ({error}). Set the environment "
            f"variable {VARIABLE} to a directory that can."
        ) from error


def _fill(directory, make):
    # Only the holder of the lock gets here, so leftovers are from killed processes.
    remove_leftovers(directory)
    with contextlib.ExitStack() as stack:
        with explained(directory.parent):
            new = stack.enter_context(replacing_directory(directory))
        # Other errors of `make` speak for themselves.
        with explained(directory.parent, full_only=True):
            make(new)
        with explained(directory.parent):
            stack.close()


def _acquire(path, name):
    import filelock

    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=1)
        except filelock.Timeout:
            print(f"Waiting for another process, which prepares {name} …", file=sys.stderr)
            lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOTSUP, "the file system has no locks", str(path)) from error
    return lock
