"""Files and directories that are written completely or not at all.

They are written to a hidden directory next to their place, `.NAME-unfinished-…`, and then renamed. The
hidden directory is removed afterwards; only a killed process leaves one behind.
"""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write a file to; the file moves to `path` when the block ends without an error.

    Other files that are written next to it move along, in the order of their names.

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
        for file in sorted(workspace.iterdir()):
            file.replace(path.parent / file.name)


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
    if directory.exists() and not _is_empty_or_holds(directory, marker):
        found = f"a {kind} (it has no {marker})" if marker else "an empty directory"
        raise FileExistsError(f"{directory} exists and is not {found}. Choose another place for it.")
    with _workspace(directory) as workspace:
        new = workspace / "new"
        new.mkdir()
        yield new
        old = _set_aside(directory)
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
        shutil.rmtree(old, ignore_errors=True)


def recover_swap(directory: pathlib.Path) -> pathlib.Path:
    """Where the content of `directory` is: in its place, or set aside if `replacing_directory` was
    killed between its two renames."""
    old = _set_aside(directory)
    return old if old.is_dir() and not directory.exists() else directory


def remove_leftovers(path: pathlib.Path) -> None:
    """Removes what killed processes left next to `path`, whose name may be a glob.

    Only for places that one process at a time writes to."""
    for leftover in path.parent.glob(f".{path.name}-unfinished-*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _workspace(path):
    """A directory next to `path` for unfinished files; it is gone afterwards."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workspace = tempfile.mkdtemp(prefix=f".{path.name}-unfinished-", dir=path.parent)
    except OSError as error:
        remedy = f"{error.strerror}, in {path.parent}; choose another place"
        raise type(error)(error.errno, remedy, str(path)) from error
    try:
        yield pathlib.Path(workspace)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _is_empty_or_holds(directory, marker):
    if not directory.is_dir():
        return False
    return not any(directory.iterdir()) or (marker is not None and (directory / marker).is_file())


def _finish_swap(directory):
    """Puts the old content back, or removes it, after a killed swap."""
    old = _set_aside(directory)
    if old.is_dir():
        if directory.exists():
            shutil.rmtree(old)
        else:
            old.rename(directory)


def _set_aside(directory):
    directory = directory.resolve()
    return directory.parent / f".{directory.name}-before"
