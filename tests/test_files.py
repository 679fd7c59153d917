"""`keras_encnet.files`: complete files and directories, or none, even after an error or a kill."""

import errno
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from keras_encnet import files
from keras_encnet.files import locked, recover_swap, remove_leftovers, replacing, replacing_directory


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def fill(place, marker="model.json", text="new"):
    """Writes a directory of one file, the marker."""
    with replacing_directory(place, "model", marker) as directory:
        (directory / marker).write_text(text)


# It imports one file instead of the package, which would take seconds.
CHILD = """
import importlib.util, os, pathlib, sys, threading, time
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
place = pathlib.Path(sys.argv[2])
"""

KILLED = """
calls = []
rename = pathlib.Path.rename

def counting(path, target):
    calls.append(target)
    if len(calls) == int(sys.argv[3]):
        os._exit(9)
    return rename(path, target)

pathlib.Path.rename = counting
with files.replacing_directory(place, "model", "model.json") as directory:
    (directory / "model.json").write_text("never finished")
"""


def child(script, *arguments):
    """Starts another process that runs `CHILD` and `script`."""
    command = [sys.executable, "-c", CHILD + script, files.__file__, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def kill_at_rename():
    """A function that writes a directory in a process that ends at its first or second rename."""

    def kill(place, number):
        with child(KILLED, place, number) as process:
            assert process.wait(timeout=60) == 9

    return kill


# === Files ===


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with replacing(path) as unfinished:
        assert unfinished.name == path.name and unfinished.parent.parent == path.parent
        unfinished.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    assert names(path.parent) == ["a.txt"]


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(str(path)) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_several_files_move_in_the_order_of_their_names(tmp_path, monkeypatch):
    moved = []
    replace = pathlib.Path.replace

    def recording(path, target):
        moved.append(target)
        return replace(path, target)

    monkeypatch.setattr(pathlib.Path, "replace", recording)
    with replacing(tmp_path / "model.xml") as unfinished:
        unfinished.write_text("graph")
        unfinished.with_suffix(".bin").write_text("weights")
        unfinished.with_name("a.txt").write_text("notes")
    assert moved == [tmp_path / name for name in ("a.txt", "model.bin", "model.xml")]
    assert names(tmp_path) == ["a.txt", "model.bin", "model.xml"]
    assert (tmp_path / "model.bin").read_text() == "weights"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error), replacing(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("half")
        unfinished.with_name("b.txt").write_text("half")
        raise error
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


# === Directories ===


@pytest.mark.parametrize("before", ["absent", "empty"])
def test_a_directory_appears_when_the_block_ends(tmp_path, before):
    place = tmp_path / "folder" / "model"
    if before == "empty":
        place.mkdir(parents=True)
    with replacing_directory(place) as directory:
        assert directory != place and not names(directory)
        (directory / "a.txt").write_text("done")
        (directory / "sub").mkdir()
        assert not place.exists() or not names(place)
    assert names(place) == ["a.txt", "sub"]
    assert names(place.parent) == ["model"]


def test_a_directory_with_the_marker_is_replaced(tmp_path):
    fill(tmp_path / "model", text="old")
    (tmp_path / "model" / "more.txt").touch()
    fill(tmp_path / "model", text="new")
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["model.json"]
    assert (tmp_path / "model" / "model.json").read_text() == "new"


def test_a_link_to_a_directory_stays_a_link(tmp_path):
    fill(tmp_path / "version1", text="old")
    (tmp_path / "model").symlink_to(tmp_path / "version1")
    fill(tmp_path / "model", text="new")
    assert (tmp_path / "model").readlink() == tmp_path / "version1"
    assert (tmp_path / "version1" / "model.json").read_text() == "new"
    assert names(tmp_path) == ["model", "version1"]


def test_other_directories_and_files_are_not_overwritten(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    (tmp_path / "file").write_text("text")
    for name in ("photos", "file"):
        with pytest.raises(FileExistsError, match=rf"{name} exists and is not a model.*model\.json"):
            fill(tmp_path / name)
        with (
            pytest.raises(FileExistsError, match=f"{name} exists and is not an empty directory"),
            replacing_directory(tmp_path / name),
        ):
            pass
    assert names(tmp_path) == ["file", "photos"]
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "cat"
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_directory_and_nothing_else(tmp_path, error):
    fill(tmp_path / "model", text="old")
    for place in (tmp_path / "model", tmp_path / "other"):
        with pytest.raises(error), replacing_directory(place, "model", "model.json") as directory:
            (directory / "model.json").write_text("half")
            raise error
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "model.json").read_text() == "old"


# === After a kill ===


def test_content_is_found_after_a_kill_between_the_two_renames(tmp_path, kill_at_rename):
    place = tmp_path / "model"
    fill(place, text="old")
    assert recover_swap(place) == place
    kill_at_rename(place, number=2)
    assert not place.exists()
    assert (recover_swap(place) / "model.json").read_text() == "old"

    # The next writer starts from the old content: an error puts it back.
    with pytest.raises(RuntimeError), replacing_directory(place, "model", "model.json"):
        raise RuntimeError
    assert recover_swap(place) == place
    assert (place / "model.json").read_text() == "old"

    remove_leftovers(place)
    assert names(tmp_path) == ["model"]


def test_content_stays_after_a_kill_before_the_first_rename(tmp_path, kill_at_rename):
    place = tmp_path / "model"
    fill(place, text="old")
    kill_at_rename(place, number=1)
    assert recover_swap(place) == place
    assert (place / "model.json").read_text() == "old"
    fill(place, text="new")
    remove_leftovers(place)
    assert names(tmp_path) == ["model"]
    assert (place / "model.json").read_text() == "new"


def test_a_kill_after_both_renames_leaves_the_new_content(tmp_path, monkeypatch):
    place = tmp_path / "model"
    fill(place, text="old")
    with monkeypatch.context() as patch:
        patch.setattr("keras_encnet.files.shutil.rmtree", lambda *args, **kwargs: None)
        fill(place, text="new")
    assert recover_swap(place) == place
    assert (place / "model.json").read_text() == "new"
    # The next writer removes the old content.
    fill(place, text="newer")
    remove_leftovers(place)
    assert names(tmp_path) == ["model"]
    assert (place / "model.json").read_text() == "newer"


def test_nothing_is_recovered_where_nothing_was(tmp_path):
    assert recover_swap(tmp_path / "model") == tmp_path / "model"


def test_leftovers_are_those_of_the_given_names(tmp_path):
    left = [f".{name}-unfinished-x" for name in ("step-1.keras", "step-2.keras", "other.keras")]
    for name in left:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    (tmp_path / "step-1.keras").touch()
    remove_leftovers(tmp_path / "step-1.keras")
    assert names(tmp_path) == sorted([*left[1:], "step-1.keras"])
    remove_leftovers(tmp_path / "step-*.keras")
    assert names(tmp_path) == [left[2], "step-1.keras"]
    remove_leftovers(tmp_path / "absent" / "a.txt")


# === Places that cannot be written to ===


@pytest.mark.parametrize("context", [replacing, replacing_directory])
def test_a_file_in_place_of_the_parent_is_an_error_with_a_remedy(tmp_path, context):
    (tmp_path / "file").write_text("not a directory")
    with (
        pytest.raises(OSError, match="choose another place.*file/model"),
        context(tmp_path / "file/model"),
    ):
        pass
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("context", [replacing, replacing_directory])
def test_an_unwritable_place_is_named_with_a_remedy(tmp_path, context, monkeypatch):
    # Root can write anywhere, so the refusal of the system is simulated.
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))

    monkeypatch.setattr("keras_encnet.files.tempfile.mkdtemp", refuse)
    message = f"Permission denied.*choose another place.*{tmp_path}/model"
    with pytest.raises(PermissionError, match=message) as caught, context(tmp_path / "model"):
        pass
    assert caught.value.errno == errno.EACCES and caught.value.filename == str(tmp_path / "model")
    assert not names(tmp_path)


# === Locks ===

HOLD = """
with files.locked(place, "training run"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_locked_directory_refuses_other_processes_and_threads_at_once(tmp_path):
    place = tmp_path / "runs" / "first"
    with child(HOLD, place) as process:
        assert process.stdout.readline() == "held\n"
        begin = time.monotonic()
        message = (
            rf"{place} is in use by another training run\. Wait until .*another directory\. If no such "
            rf"process runs, delete {place}/\.lock\.$"
        )
        with pytest.raises(OSError, match=message), locked(place, "training run"):
            pass
        assert time.monotonic() - begin < 1
        process.kill()
    with locked(place, "training run"):  # a kill frees it
        refused = []

        def try_it():
            with pytest.raises(OSError, match="in use"), locked(str(place), "training run"):
                pass
            refused.append(True)

        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        with pytest.raises(OSError, match="in use"), locked(place, "training run"):
            pass
        with locked(tmp_path / "runs" / "second", "training run"):
            pass
    assert refused
    with pytest.raises(RuntimeError), locked(place, "training run"):
        raise RuntimeError
    with locked(place, "training run"):  # an error frees it
        assert [name for name in names(place) if not name.startswith(".")] == []


def test_a_place_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(OSError, match="choose another place.*file"), locked(tmp_path / "file", "run"):
        pass


@pytest.fixture
def no_locks(monkeypatch):
    """As on some network file systems."""
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_file_system_without_locks_is_spoken_of(tmp_path, no_locks):
    with pytest.warns(UserWarning, match="has no locks. Make sure that no other training run uses it"):
        with locked(tmp_path, "training run"):
            pass
    with replacing(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("done")
    assert (tmp_path / "a.txt").read_text() == "done"
    assert names(tmp_path) == [".lock", "a.txt"]


def test_without_locks_leftovers_are_recognized_by_their_age(tmp_path, no_locks, monkeypatch):
    left = [tmp_path / f".{name}-unfinished-abcdefgh" for name in ("new", "old")]
    for directory, days in zip(left, (0.5, 2), strict=True):
        directory.mkdir()
        (directory / files.OWNER).touch()
        aged(directory, days * 86400)
    monkeypatch.setattr(files, "_cleaned", set())
    with replacing(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("done")
    assert names(tmp_path) == [left[0].name, "a.txt"]


# === Several writers ===

WRITE = """
letter = sys.argv[3]
for _ in range(30):
    with files.replacing(place / "a.txt") as unfinished:
        unfinished.write_text(letter * 100_000)
    with files.replacing_directory(place / "model", "model", "model.json") as directory:
        (directory / "model.json").write_text(letter)
        (directory / "weights").write_text(letter)
"""


def test_threads_and_processes_may_write_to_one_place(tmp_path):
    with child(WRITE, tmp_path, "x") as one, child(WRITE, tmp_path, "y") as other:
        failures, seen = [], set()

        def write(letter):
            try:
                for _ in range(20):
                    fill(tmp_path / "model", text=letter)
                    with replacing(tmp_path / "pair.xml") as unfinished:
                        unfinished.write_text(letter)
                        unfinished.with_suffix(".bin").write_text(letter)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        while one.poll() is None or other.poll() is None:
            if (tmp_path / "a.txt").exists():
                seen.add((tmp_path / "a.txt").read_text())
        for thread in threads:
            thread.join()
    assert not failures and one.returncode == other.returncode == 0
    assert seen <= {"x" * 100_000, "y" * 100_000}
    assert names(tmp_path) == ["a.txt", "model", "pair.bin", "pair.xml"]
    assert (tmp_path / "pair.bin").read_text() == (tmp_path / "pair.xml").read_text()
    content = [file.read_text() for file in (tmp_path / "model").iterdir()]
    assert len(set(content)) == 1


# === Power loss ===


@pytest.fixture
def disk(monkeypatch):
    """What is flushed and renamed, in order: the names of files and directories."""
    done = []
    fsync, replace, rename = os.fsync, pathlib.Path.replace, pathlib.Path.rename

    def flushed(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        done.append(f"flush {os.path.basename(path)}")
        return fsync(descriptor)

    def recording(function):
        def move(path, target):
            moved = function(path, target)
            done.append(f"move {path.name} to {target.name}")
            return moved

        return move

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(pathlib.Path, "replace", recording(replace))
    monkeypatch.setattr(pathlib.Path, "rename", recording(rename))
    return done


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs the names of open files")
def test_content_is_on_the_disk_before_a_rename_and_the_rename_before_the_end(tmp_path, disk):
    place = tmp_path / "here"
    with replacing(place / "a.txt") as unfinished:
        unfinished.write_text("done")
    assert disk == ["flush a.txt", "move a.txt to a.txt", "flush here"]
    disk.clear()
    with replacing_directory(place / "model") as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "b.txt").write_text("done")
    assert disk == ["flush new", "flush sub", "flush b.txt", "move new to model", "flush here"]


# === Leftovers ===

UNFINISHED = """
with files.replacing(place) as unfinished:
    unfinished.write_text("half")
    print(unfinished.parent, flush=True)
    sys.stdin.read()
"""


def aged(path, seconds):
    """Makes a directory look older."""
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_leftovers_of_killed_writers_are_removed_by_a_later_one(tmp_path, monkeypatch):
    place = tmp_path / "photo [1].png"
    with child(UNFINISHED, tmp_path / "other.png") as killed, child(UNFINISHED, place) as alive:
        left = pathlib.Path(killed.stdout.readline().strip())
        used = pathlib.Path(alive.stdout.readline().strip())
        killed.kill()
        killed.wait()
        new = tmp_path / ".a-unfinished-abcdefgh"  # perhaps made this very moment
        foreign = tmp_path / ".my-unfinished-novel"
        old = tmp_path / ".b-unfinished-abcdefgh"  # of a version without lock files
        for directory in (new, foreign, old):
            directory.mkdir()
        aged(left, 3600)
        aged(used, 10 * 86400)
        aged(foreign, 10 * 86400)
        aged(old, 2 * 86400)
        monkeypatch.setattr(files, "_cleaned", set())
        with replacing(tmp_path / "c.txt") as unfinished:
            unfinished.write_text("done")
        assert names(tmp_path) == sorted([new.name, used.name, foreign.name, "c.txt"])
        alive.communicate("", timeout=60)
    assert place.read_text() == "half"


def test_leftovers_give_back_what_they_hold(tmp_path, monkeypatch, kill_at_rename):
    fill(tmp_path / "model", text="old")
    kill_at_rename(tmp_path / "model", number=2)
    (left,) = tmp_path.iterdir()
    aged(left, 3600)
    monkeypatch.setattr(files, "_cleaned", set())
    with replacing(tmp_path / "c.txt") as unfinished:
        unfinished.write_text("done")
    assert names(tmp_path) == ["c.txt", "model"]
    assert (tmp_path / "model" / "model.json").read_text() == "old"


def test_an_error_between_the_two_renames_puts_the_old_content_back(tmp_path, monkeypatch):
    fill(tmp_path / "model", text="old")
    rename = pathlib.Path.rename

    def refuse(path, target):
        if path.name == "new":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        fill(tmp_path / "model", text="new")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "model.json").read_text() == "old"
