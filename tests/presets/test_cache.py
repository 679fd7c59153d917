"""Directories in the cache are complete, whatever happens while they are made."""

import errno
import pathlib
import subprocess
import sys
import time

import pytest

from keras_encnet.presets import cache
from keras_encnet.presets.cache import cache_directory, cached

# Fills a directory and waits in the middle. It imports two files instead of the package, which would
# take seconds.
CHILD = """
import importlib.util, pathlib, sys, time, types
package = sys.modules["keras_encnet"] = types.ModuleType("keras_encnet")
package.__path__ = [str(pathlib.Path(sys.argv[1]).parents[1])]
spec = importlib.util.spec_from_file_location("cache", sys.argv[1])
cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cache)

def make(directory):
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    (directory / "first").write_text("1")
    while not pathlib.Path(sys.argv[3]).exists():
        time.sleep(0.01)
    (directory / "second").write_text("2")

found = cache.cached("presets/model", make)
print(sorted(path.name for path in found.iterdir()))
"""


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_ENCNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def child(directory):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, cache.__file__, directory / "log", directory / "go"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fill(directory):
    (directory / "first").write_text("1")
    (directory / "second").write_text("2")


def test_location(monkeypatch, tmp_path):
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.setenv("KERAS_ENCNET_CACHE", "~/models")
    assert cache_directory() == pathlib.Path.home() / "models"
    monkeypatch.delenv("KERAS_ENCNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "keras-encnet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == pathlib.Path.home() / ".cache" / "keras-encnet"


def test_no_home_directory(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("KERAS_ENCNET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pathlib.Path, "home", home)
    with pytest.raises(OSError, match="KERAS_ENCNET_CACHE"):
        cache_directory()


def test_a_directory_is_made_once(directory):
    made = []

    def make(unfinished):
        made.append(unfinished)
        assert not any(unfinished.iterdir()) and not (directory / "presets" / "model").exists()
        fill(unfinished)

    for _ in range(2):
        assert cached("presets/model", make) == directory / "presets" / "model"
    assert len(made) == 1
    assert {path.name for path in (directory / "presets" / "model").iterdir()} == {"first", "second"}


def leftovers(directory):
    return [path for path in directory.rglob("*") if path.suffix != ".lock" and path.name != "presets"]


def test_failure_leaves_nothing(directory):
    def make(unfinished):
        fill(unfinished)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="^damaged$"):
        cached("presets/model", make)
    assert leftovers(directory) == []
    assert cached("presets/model", fill).is_dir()


def wait_until_begun(directory, process):
    """Waits until a process has begun to fill a directory, and returns that directory."""
    while not (begun := list(directory.glob("presets/.model-unfinished-*/*/first"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return begun[0].parent


def test_only_one_of_two_processes_does_the_work(tmp_path, directory):
    first = child(tmp_path)
    wait_until_begun(directory, first)
    second = child(tmp_path)
    assert second.stderr.readline().startswith("Waiting for another process")
    (tmp_path / "go").touch()
    for process in (first, second):
        assert process.communicate(timeout=60) == ("['first', 'second']\n", "")
    assert (tmp_path / "log").read_text() == "made\n"


def test_kill_leaves_nothing_that_looks_complete(tmp_path, directory):
    process = child(tmp_path)
    leftover = wait_until_begun(directory, process)
    process.kill()
    process.communicate()
    assert leftover.is_dir() and not (directory / "presets" / "model").exists()

    def make(unfinished):
        assert not any(unfinished.iterdir())
        (unfinished / "third").write_text("3")

    found = cached("presets/model", make)
    assert [path.name for path in found.iterdir()] == ["third"]
    assert not leftover.exists()


def test_unwritable_cache(directory):
    directory.write_text("a file in its place")
    with pytest.raises(OSError, match=r"cannot be written .*KERAS_ENCNET_CACHE") as caught:
        cached("presets/model", fill)
    assert str(directory) in str(caught.value)


def test_file_instead_of_the_preset(directory):
    (directory / "presets").mkdir(parents=True)
    (directory / "presets" / "model").write_text("")
    with pytest.raises(OSError, match="model exists and is not an empty directory"):
        cached("presets/model", fill)


@pytest.mark.parametrize("name", ["mkdir", "rename"])
def test_read_only_cache(name, monkeypatch, directory):
    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(pathlib.Path, name, refuse)
    with pytest.raises(OSError, match=r"cannot be written \(.*Read-only file system"):
        cached("presets/model", fill)
    monkeypatch.undo()
    assert leftovers(directory) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("Can't write data (errno = 28, error message = 'No space left on device')"),
    ],
)
def test_full_disk(error, directory):
    def make(unfinished):
        fill(unfinished)
        raise error

    with pytest.raises(OSError, match="disk is full.*KERAS_ENCNET_CACHE") as caught:
        cached("presets/model", make)
    assert str(directory) in str(caught.value)
    assert leftovers(directory) == []


def test_other_errors_are_unchanged():
    def make(unfinished):
        raise PermissionError(errno.EACCES, "Permission denied", "/secret/file")

    with pytest.raises(PermissionError, match="/secret/file"):
        cached("presets/model", make)
