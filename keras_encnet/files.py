"""Files and directories that are written completely or not at all, and locks.

They are written to a hidden directory next to their place, `.NAME-unfinished-…`, flushed to the disk,
and then renamed. The hidden directory is removed afterwards. A killed process leaves it behind; a later
process that writes there removes it.
"""

import contextlib
import errno
import glob
import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator

import filelock

OWNER = ".owner"  # file in an unfinished directory, locked as long as its writer lives
LEFTOVER = re.compile(r"\..+-unfinished-[a-z0-9_]{8}")
YOUNG = 60  # seconds in which a writer has surely locked its new directory
OLD = 24 * 3600  # seconds after which a directory without a lock has no writer any more
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # of file systems without locks

_moving = threading.Lock()
_cleaned = set()  # directories whose leftovers this process has looked for


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write a file to; the file moves to `path` when the block ends without an error.

    Other files that are written next to it move along, in the order of their names. Several threads and
    processes may write to the same path: the last one wins.

    Raises:
        OSError: if nothing can be written there; it names `path`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as here:
    ...     with replacing(f"{here}/notes.txt") as unfinished:
    ...         _ = unfinished.write_text("done")
    ...     pathlib.Path(here, "notes.txt").read_text()
    'done'
    """
    path = pathlib.Path(path)
    with _workspace(path) as workspace:
        yield workspace / path.name
        files = sorted(file for file in workspace.iterdir() if file.name != OWNER)
        for file in files:
            _flush(file)
        # Files that belong together must not mix with those of another thread.
        with _moving:
            for file in files:
                file.replace(path.parent / file.name)
                _flush_directory(path.parent)


@contextlib.contextmanager
def replacing_directory(
    directory: str | pathlib.Path, kind: str = "directory", marker: str | None = None
) -> Iterator[pathlib.Path]:
    """An empty directory to fill; it takes the place of `directory` when the block ends without an
    error.

    Args:
        directory: the place; what is there must be empty, or hold the file `marker`.
        kind: what such a directory is called, for messages.
        marker: the name of a file that every directory of this kind holds.

    Raises:
        FileExistsError: if there is something else at `directory`.
        OSError: if nothing can be written there; it names `directory`.
    """
    # The place itself, not a link to it.
    directory = pathlib.Path(directory).resolve()
    _finish_swap(directory)
    if _is_something_else(directory, marker):
        found = f"a {kind} (it has no {marker})" if marker else "an empty directory"
        raise FileExistsError(f"{directory} exists and is not {found}. Choose another path.")
    with _workspace(directory) as workspace:
        new = workspace / "new"
        new.mkdir()
        yield new
        for path in [new, *new.rglob("*")]:
            _flush_directory(path) if path.is_dir() else _flush(path)
        _swap(new, directory, workspace / "old")
        _flush_directory(directory.parent)


def recover_swap(directory: pathlib.Path) -> pathlib.Path:
    """Where the content of `directory` is: in its place, or set aside if `replacing_directory` was
    killed between its two renames."""
    return directory if directory.exists() else next(_set_aside(directory), directory)


def remove_leftovers(path: pathlib.Path) -> None:
    """Removes at once what killed processes left next to `path`, whose name may be a glob.

    Only for places that one process at a time writes to: a writer that just begins has no lock yet."""
    for leftover in path.parent.glob(f".{path.name}-unfinished-*"):
        if _is_left(leftover, age=math.inf):
            _discard(leftover)


# === Locks ===


@contextlib.contextmanager
def locked(directory: str | pathlib.Path, purpose: str) -> Iterator[None]:
    """Keeps other threads and processes out of a directory, which is created if needed.

    The lock is a hidden file in it, which stays. The end of the process frees the lock, even a kill.

    Args:
        directory: the directory.
        purpose: what it is used for, such as `"training run"`.

    Raises:
        OSError: at once, if another thread or process holds the lock, or nothing can be written there.
    """
    directory = pathlib.Path(directory)
    lock = filelock.FileLock(directory / ".lock")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise OSError(
            f"{directory} is in use by another {purpose}. Wait until it has ended, or choose another "
            f"directory. If no such process runs, delete {lock.lock_file}."
        ) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise _with_remedy(error, directory) from error
        warnings.warn(
            f"The file system of {directory} has no locks. Make sure that no other {purpose} uses it.",
            stacklevel=3,
        )
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_in_turn(path: pathlib.Path, task: str) -> Iterator[None]:
    """Waits until no other thread or process holds the lock file `path`, then holds it.

    Args:
        path: the lock file, which stays.
        task: what the holder does, such as `"prepare ade20k_r101"`, for the message while waiting.

    Raises:
        OSError: if the file cannot be written, or the file system has no locks.
    """
    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=1)
        except filelock.Timeout:
            print(f"Waiting for another process to {task} …", file=sys.stderr)
            lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOTSUP, "the file system has no locks", str(path)) from error
    try:
        yield
    finally:
        lock.release()


# === Unfinished directories ===


@contextlib.contextmanager
def _workspace(path):
    """A directory next to `path` for unfinished files; it is gone afterwards."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workspace = tempfile.mkdtemp(prefix=f".{path.name}-unfinished-", dir=path.parent)
    except OSError as error:
        raise _with_remedy(error, path) from error
    workspace = pathlib.Path(workspace)
    _remove_old_leftovers(path.parent)
    owner = filelock.FileLock(workspace / OWNER)
    try:
        # Without locks, leftovers are recognized by their age.
        with contextlib.suppress(NotImplementedError, OSError):
            owner.acquire()
        yield workspace
    finally:
        owner.release()
        _discard(workspace)


def _remove_old_leftovers(parent):
    """Removes what killed processes left in `parent`; looks for it once in each process."""
    if parent.resolve() in _cleaned:
        return
    _cleaned.add(parent.resolve())
    now = time.time()
    for leftover in parent.glob(".*-unfinished-*"):
        with contextlib.suppress(OSError):
            age = now - leftover.stat().st_mtime
            if LEFTOVER.fullmatch(leftover.name) and age > YOUNG and _is_left(leftover, age):
                _discard(leftover)


def _is_left(workspace, age):
    """Whether the writer of an unfinished directory is gone."""
    if not (workspace / OWNER).is_file():
        return age > OLD
    owner = filelock.FileLock(workspace / OWNER)
    try:
        owner.acquire(timeout=0)
    except filelock.Timeout:
        return False
    except (NotImplementedError, OSError):
        return age > OLD
    owner.release()
    return True


def _discard(workspace):
    """Removes an unfinished directory, and puts back what it had set aside from a place that is now
    empty."""
    name = re.fullmatch(r"\.(.+)-unfinished-.*", workspace.name)[1]
    place = workspace.parent / name
    if _is_half_swapped(workspace):
        _put_back(workspace / "old", place)
    shutil.rmtree(workspace, ignore_errors=True)


def _is_something_else(directory, marker):
    """Whether there is a file, or a directory that is neither empty nor holds `marker`."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return directory.exists()
    return bool(names) and marker not in names


def _swap(new, directory, old):
    """Renames `directory` to `old` and `new` to `directory`, while other writers may do the same."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            directory.rename(old)
        try:
            new.rename(directory)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another writer was faster. Its directory is complete, so the older one has no use.
            shutil.rmtree(old, ignore_errors=True)


def _finish_swap(directory):
    """Puts the old content back, or removes it, after a killed swap."""
    for old in _set_aside(directory):
        _put_back(old, directory)
    shutil.rmtree(_before(directory), ignore_errors=True)


def _put_back(old, directory):
    # Where another writer is faster, its directory stays.
    if not directory.exists():
        with contextlib.suppress(OSError):
            old.rename(directory)


def _set_aside(directory):
    """The old contents of `directory` that killed swaps left next to it."""
    directory = directory.resolve()
    if _before(directory).is_dir():
        yield _before(directory)
    for workspace in directory.parent.glob(f".{glob.escape(directory.name)}-unfinished-*"):
        if _is_half_swapped(workspace):
            yield workspace / "old"


def _is_half_swapped(workspace):
    return (workspace / "new").is_dir() and (workspace / "old").is_dir()


def _before(directory):
    """Where version 0.1 set the old content aside."""
    return directory.parent / f".{directory.name}-before"


# === The disk ===


def _flush(file):
    """Waits until the content of a file is on the disk: a rename may reach it earlier."""
    # Windows flushes only files that are open for writing, which read-only files elsewhere are not.
    with open(file, "rb+" if os.name == "nt" else "rb") as opened:
        os.fsync(opened.fileno())


def _flush_directory(directory):
    """The same for the names in a directory, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _with_remedy(error, path):
    return type(error)(
        error.errno, f"{error.strerror}, in {path.parent}; choose another place", str(path)
    )
