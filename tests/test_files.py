"""`keras_encnet.files`: complete files and directories, or none, even after an error or a kill."""

import errno
import os
import pathlib

import pytest

from keras_encnet.files import recover_swap, remove_leftovers, replacing, replacing_directory


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def fill(place, marker="model.json", text="new"):
    """Writes a directory of one file, the marker."""
    with replacing_directory(place, "model", marker) as directory:
        (directory / marker).write_text(text)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def kill_at_rename(monkeypatch):
    """A function that writes a directory and is killed at its first or second rename.

    A killed process does not clean up, so removing directories is switched off too."""

    def kill(place, number):
        calls = []
        rename = pathlib.Path.rename

        def counting(path, target):
            calls.append(target)
            if len(calls) == number:
                raise Killed
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "rename", counting)
            patch.setattr("keras_encnet.files.shutil.rmtree", lambda *args, **kwargs: None)
            with pytest.raises(Killed):
                fill(place, text="never finished")

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
