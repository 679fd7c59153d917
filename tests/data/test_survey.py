"""A survey counts by hand-checked numbers, names every fault and its files, and draws them."""

import itertools
import json
import threading
import warnings
import weakref

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFile

from keras_encnet.data import fonts
from keras_encnet.data.checks import check_masks
from keras_encnet.data.folders import folder
from keras_encnet.data.pairs import Pairs
from keras_encnet.data.survey import check

LABELS = ["sky", "road", "car"]


class Disk:
    """A directory of images and masks of 48×60 (height×width)."""

    seeds = itertools.count(100)  # no two images are alike

    def __init__(self, path):
        self.path = path
        for part in ("images", "masks"):
            (path / part).mkdir(parents=True)

    def image(self, name, size=(48, 60), orientation=1):
        noise = np.random.default_rng(next(self.seeds))
        image = Image.fromarray(noise.integers(0, 256, (*size, 3), dtype="uint8"))
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(self.path / "images" / name, exif=exif)

    def mask(self, name, *values, size=(48, 60)):
        """A mask of stripes of the given values, of equal width."""
        columns = np.repeat(np.array(values, "uint8"), size[1] // len(values))
        Image.fromarray(columns[None].repeat(size[0], 0)).save(self.path / "masks" / name)

    def pair(self, name, *values, **image):
        self.image(f"{name}.png", **image)
        self.mask(f"{name}.png", *values, size=image.get("size", (48, 60)))

    def __call__(self, labels=LABELS, **how):
        return folder(self.path / "images", self.path / "masks", labels=labels, **how)


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path / "data")


def kinds(findings):
    return [finding.kind for finding in findings]


def drawn(*values, labels=None, **how):
    """Pairs of different images and masks of equal stripes, without files."""
    masks = [np.repeat(np.array(v), 48 // len(v))[None].repeat(32, 0) for v in values]
    images = [np.full((32, 48, 3), 10 * i, "uint8") for i in range(len(masks))]
    return Pairs(list(zip(images, masks, strict=True)), labels=labels, **how)


def test_pixels_images_and_sizes_are_counted(disk, tmp_path):
    disk.pair("a", 0, 1)  # 48 × 60: 1440 pixels of each
    disk.pair("b", 0, 0, 0, 2)  # 2160 and 720
    disk.pair("c", 1, 255, size=(32, 40))  # 640 and 640
    other = Disk(tmp_path / "other")
    other.pair("d", 0, 1, 2, 2)
    survey = check({"train": disk(), "val": other()})
    found = json.loads(json.dumps(survey.to_json()))
    train = found["splits"]["train"]
    assert survey.ok and found["ok"] and found["problems"] == [] and survey.problems == []
    assert (train["images"], train["masks"], found["num_classes"]) == (3, 3, 3)
    assert train["sizes"] == [
        {"height": 48, "width": 60, "images": 2},
        {"height": 32, "width": 40, "images": 1},
    ]
    assert train["classes"] == [
        {"value": 0, "label": "sky", "pixels": 1440 + 2160, "images": 2},
        {"value": 1, "label": "road", "pixels": 1440 + 640, "images": 2},
        {"value": 2, "label": "car", "pixels": 720, "images": 1},
    ]
    assert train["ignored"] == {"pixels": 640, "images": 1} and train["outside"] == []
    text = str(survey).splitlines()
    assert text[0] == (
        "train: 3 images with masks, 2 sizes from 32×40 to 48×60 (height×width), most often 48×60 "
        "(2 images)"
    )
    assert text[1] == "val: 1 image with masks, 48×60 (height×width)"
    # 3600, 2080, 720 and 640 of 7040 pixels; a quarter, a quarter and a half.
    rows = [line.split() for line in text[3:9]]
    assert rows == [
        ["train", "val"],
        ["class", "pixels", "images", "pixels", "images"],
        ["0", "sky", "51.14%", "2", "25.00%", "1"],
        ["1", "road", "29.55%", "2", "25.00%", "1"],
        ["2", "car", "10.23%", "1", "50.00%", "1"],
        ["ignored", "(255)", "9.09%", "1", "none", "0"],
    ]
    assert text[-1] == "No problems."


def test_columns_are_aligned_in_a_terminal_with_chinese_names():
    lines = str(check(drawn([0, 1, 2], labels=["天空", "road", "汽车"]))).splitlines()[2:6]
    assert lines == [
        "class   pixels  images",
        "0 天空  33.33%       1",
        "1 road  33.33%       1",
        "2 汽车  33.33%       1",
    ]


def test_files_that_cannot_be_read_are_named_and_the_check_continues(disk):
    for name in "abcd":
        disk.pair(name, 0, 1, 2)
    images, masks = disk.path / "images", disk.path / "masks"
    (images / "a.png").write_bytes((images / "a.png").read_bytes()[:500])
    (masks / "b.png").write_text("not an image")
    Image.new("RGB", (60, 48), (1, 2, 3)).save(masks / "c.png")
    survey = check(disk())
    assert kinds(survey.problems) == ["unreadable"] and not survey.ok
    problem = survey.problems[0]
    assert list(problem.where) == [str(images / "a.png"), str(masks / "b.png"), str(masks / "c.png")]
    text = str(survey)
    assert "Received: 3 that are not." in text
    for file, reason in zip(problem.where, ("truncated", "not an image", "`palette`"), strict=True):
        assert any(file in line and reason in line for line in text.splitlines())
    # The mask of the broken image and the image of the broken mask still count.
    split = survey.to_json()["splits"][""]
    assert [each["images"] for each in split["classes"]] == [2, 2, 2]
    assert split["sizes"] == [{"height": 48, "width": 60, "images": 3}] and split["images"] == 4


def test_a_source_that_fails_is_named_once():
    class Broken(Pairs):
        def __init__(self):
            pass

        def __len__(self):
            return 3

        def read(self, i):
            if i == 1:
                raise RuntimeError("the server is gone")
            return np.full((32, 48, 3), i, "uint8"), np.eye(32, 48, dtype="uint8")

    problem = check(Broken()).problems
    assert [(each.where, each.reasons) for each in problem] == [(("pair 1",), ("the server is gone",))]


def test_sizes_that_differ_and_exif_rotations_that_disagree(disk):
    disk.pair("a", 0, 1, 2)
    disk.image("turned.jpg", orientation=6)  # 60×48 when it is upright
    disk.mask("turned.png", 0, 1)
    disk.image("other.png", size=(50, 60))
    disk.mask("other.png", 0, 1)
    disk.pair("small", 0, 1, size=(20, 40))
    disk.image("half.jpg", orientation=3)
    disk.mask("half.png", 0, 1)
    disk.image("half2.jpg", orientation=6, size=(48, 48))
    disk.mask("half2.png", 0, 1, size=(48, 48))
    survey = check(disk())
    found = {problem.kind: problem for problem in survey.problems}
    assert set(found) == {"turned", "sizes", "small"}
    images = disk.path / "images"
    for kind, name, words in [
        ("turned", "turned.jpg", "must be turned alike.*EXIF orientation 6"),
        ("sizes", "other.png", "must have the same size. Received: (50, 60) and (48, 60)"),
        ("small", "small.png", "must have 32 pixels or more"),
    ]:
        assert found[kind].where == (str(images / name),)
        assert all(part in found[kind].text() for part in words.split(".*"))
        # The same words as from the pair itself.
        pairs = disk()
        i = next(i for i in range(len(pairs)) if pairs.files(i)[0] == str(images / name))
        with pytest.raises(ValueError) as error:
            check_masks(pairs.subset([i]), 3)
        assert str(error.value) == found[kind].text()
    notes = {note.kind: note for note in survey.notes}
    assert "fit either way: 2 of 6." in notes["may be turned"].found
    half = {str(images / "half.jpg"), str(images / "half2.jpg")}
    assert set(notes["may be turned"].where) == half


@pytest.mark.parametrize(
    "values, num_classes, first",
    [
        ([[0, 1], [2, 3]], 3, "Most likely 3 marks pixels without a class"),
        ([[1, 2], [2, 3]], 3, "Most likely the labels are shifted by one"),
        ([[0, 128], [128, 0]], 2, "Most likely 128 is the foreground"),
        ([[0, 255], [255, 0]], 2, "If 255 is the foreground"),
        ([[255, 255]], 2, "If 255 is a class"),
        ([[0, 17], [88, 143]], 2, "Values in between come from JPEG"),
    ],
)
def test_advice_about_mask_values_is_that_of_check_masks(values, num_classes, first):
    data = drawn(*values)
    survey = check(data, num_classes=num_classes)
    with pytest.raises(ValueError) as error:
        check_masks(data, num_classes)
    problem = survey.problems[0]
    assert problem.readings == error.value.readings and first in problem.readings[0].meaning
    # `check_masks` names files in the middle of its sentence.
    assert error.value.found.startswith(problem.found.rstrip("."))
    text = str(survey)
    assert text.index(problem.found) < text.index(f"\n     - {first}")
    assert "label_map=" not in survey.text(command_line=True)
    if problem.readings[0].label_map:
        assert "--label-map" in survey.text(command_line=True)


def test_every_mask_with_a_value_outside_is_listed():
    splits = {"train": drawn([0, 1], [0, 9]), "val": drawn([9, 1], [1, 0], [9, 0])}
    survey = check(splits, num_classes=2)
    assert [(each.split, each.where) for each in survey.problems if each.kind == "outside"] == [
        ("train", ("pair 1",)),
        ("val", ("pair 0", "pair 2")),
    ]
    outside = survey.to_json()["splits"]["val"]["outside"]
    assert outside == [{"value": 9, "pixels": 2 * 32 * 24, "images": 2}]
    row = next(line.split() for line in str(survey).splitlines() if line.startswith("outside"))
    assert row == ["outside", "the", "classes", "25.00%", "1", "33.33%", "2"]


def test_classes_with_another_value_are_not_called_absent():
    survey = check(drawn([0, 128], [128, 0]), num_classes=2)
    assert kinds(survey.problems) == ["outside"] and survey.notes == []


def test_masks_saved_as_jpeg_are_a_problem_whatever_their_name(disk):
    disk.pair("a", 0, 1, 2)
    disk.pair("b", 0, 1, 2)
    labels = np.zeros((48, 60), "uint8")
    labels[:, 32:] = 1  # flat halves of whole blocks keep their values
    Image.fromarray(labels).save(disk.path / "masks" / "b.png", "JPEG", quality=100)
    (problem,) = check(disk()).problems
    assert problem.kind == "jpeg" and "1 of 2 masks as JPEG" in problem.found
    assert "save the original masks as PNG" in problem.text()
    assert problem.where == (str(disk.path / "masks" / "b.png"),)


def test_the_same_image_in_two_splits_is_found_by_its_pixels(disk, tmp_path):
    disk.pair("a", 0, 1, 2)
    disk.pair("b", 0, 1, 2)
    other = Disk(tmp_path / "other")
    other.pair("c", 2, 1, 0)
    other.mask("copy.png", 0, 1, 2)
    # The same pixels in another file, of another format.
    Image.open(disk.path / "images" / "b.png").save(other.path / "images" / "copy.bmp")
    assert check({"train": disk(), "val": other()[:1]}).ok
    (problem,) = check({"train": disk(), "val": other()}).problems
    assert problem.kind == "two splits" and "Received: 1 in 'train' and 'val'" in problem.found
    first, second = problem.where[0].split(" = ")
    assert first == str(disk.path / "images" / "b.png")
    assert second == str(other.path / "images" / "copy.bmp")
    # In one split it is only worth a look.
    joined = check(disk() + other())
    assert joined.ok and kinds(joined.notes) == ["twice"] and joined.notes[0].where == problem.where


def test_images_of_the_same_bytes_and_another_shape_are_not_the_same():
    shapes = (32, 48), (48, 32)
    pairs = [(np.zeros((*shape, 3), "uint8"), np.eye(*shape, dtype="uint8")) for shape in shapes]
    survey = check(pairs)
    assert survey.ok and not survey.notes


def test_masks_in_which_there_is_little_to_learn_are_noted():
    nearly = np.zeros((32, 48), "uint8")
    nearly[0, 0] = 1  # 1535 of 1536 pixels, 99.93 %
    data = drawn([0, 1], [0, 0], [1, 255], [255, 255], [0, 1, 1], labels=["sky", "road"])
    image = np.full((32, 48, 3), 77, "uint8")
    notes = {note.kind: note for note in check(data + Pairs([(image, nearly)])).notes}
    assert notes["single class"].where == ("pair 1 of part 1", "pair 2 of part 1")
    assert "one class alone: 2 of 6." in notes["single class"].found
    assert "Most often: 'sky' (0) in 1, 'road' (1) in 1." in notes["single class"].found
    assert notes["nearly constant"].where == ("pair 0 of part 2",)
    assert notes["only ignored"].where == ("pair 3 of part 1",)


def test_all_masks_of_one_class_are_a_problem():
    (problem,) = check(drawn([0], [0]), num_classes=2).problems
    assert problem.kind == "one class" and "two classes or more. Received: only 0" in problem.found
    assert check(drawn([0], [0]), num_classes=1).ok


def test_classes_that_no_mask_has_and_those_that_only_others_have():
    survey = check({"train": drawn([0, 1], labels=LABELS), "val": drawn([0, 1, 1], [0], labels=LABELS)})
    assert "No mask has this class: 'car' (2)." in survey.notes[-1].found
    survey = check({"train": drawn([0, 1], labels=LABELS), "val": drawn([0, 2], labels=LABELS)})
    absent = [(note.split, note.found) for note in survey.notes if note.kind == "absent"]
    assert absent == [
        ("train", "No mask has this class: 'car' (2), which other splits have."),
        ("val", "No mask has this class: 'road' (1), which other splits have."),
    ]


@pytest.mark.parametrize(
    "values, num_classes, problems",
    [
        ([[0, 1, 2]], 3, []),
        ([[0, 1, 3, 255]], 4, []),
        ([[0, 255]], 1, ["one class"]),  # black and white
        ([[0, 128]], 2, ["outside"]),
        ([[1, 2, 3]], 3, ["outside"]),  # counted from 1
        ([[255]], 1, ["ignored"]),
    ],
)
def test_without_labels_the_values_suggest_the_number_of_classes(values, num_classes, problems):
    survey = check(drawn(*values))
    assert (survey.num_classes, kinds(survey.problems)) == (num_classes, problems)
    assert "There are no labels. The mask values suggest" in str(survey)
    assert "There are no labels" not in str(check(drawn(*values), num_classes=2))


def test_a_class_255_is_counted_if_there_are_more():
    survey = check(drawn([0, 255], [300, 65535]), num_classes=301)
    assert survey.ok and survey.ignore_index == 65535
    assert survey.to_json()["splits"][""]["classes"][255]["pixels"] == 32 * 24
    assert survey.to_json()["splits"][""]["ignored"] == {"pixels": 32 * 24, "images": 1}


def test_a_split_without_masks_is_compared_by_its_images():
    class Test(Pairs):
        has_masks = False

    data = drawn([0, 1, 2], [2, 1, 0], labels=LABELS)
    test = Test([(data.image(1), None), (np.full((32, 48, 3), 99, "uint8"), None)])
    survey = check({"train": data, "test": test})
    assert kinds(survey.problems) == ["two splits"] and survey.notes == []
    assert "test: 2 images without masks, 32×48" in str(survey)
    assert survey.to_json()["splits"]["test"]["masks"] == 0
    assert check(test).ok and check(test).picture().mode == "RGB"


@pytest.mark.parametrize(
    "data, how, message",
    [
        ([], {}, "must not be empty. Received: no pairs"),
        ({}, {}, "must not be empty. Received: no pairs"),
        ({"train": drawn([0, 1]), "val": []}, {}, "no pairs in the split 'val'"),
        (drawn([0, 1], labels=["a", "b"]), {"num_classes": 3}, "num_classes=3 and 2 labels. Leave"),
        (drawn([0, 1]), {"num_classes": 0}, "`num_classes` must be a positive integer. Received: 0"),
        (drawn([0, 1]), {"ignore_index": -1}, "`ignore_index` must be an integer from 0 up"),
        (
            {"train": drawn([0], labels=["a"]), "val": drawn([0], labels=["b"])},
            {},
            r"same labels. Received: 'train' \('a',\), 'val' \('b',\)",
        ),
    ],
)
def test_arguments_that_are_refused(data, how, message):
    with pytest.raises(ValueError, match=message):
        check(data, **how)


def test_each_file_is_decoded_once(disk, monkeypatch):
    for name in "abc":
        disk.image(f"{name}.jpg", orientation=1)
        disk.mask(f"{name}.png", 0, 1, 2)
    decoded, prepare = [], ImageFile.ImageFile.load_prepare

    def counting(self):
        decoded.append(self.filename)
        prepare(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", counting)
    assert check(disk()).ok
    assert len(decoded) == len(set(decoded)) == 6


def test_few_images_are_in_memory_at_a_time():
    lock, alive, most = threading.Lock(), 0, 0

    def count(change):
        nonlocal alive, most
        with lock:
            alive += change
            most = max(most, alive)

    class Drawn(Pairs):
        labels = ("a", "b")

        def __init__(self):
            pass

        def __len__(self):
            return 100

        def read(self, i):
            image = np.full((32, 48, 3), i, "uint8")
            count(1)
            weakref.finalize(image, count, -1)
            return image, np.eye(32, 48, dtype="uint8")

    survey = check(Drawn())
    assert survey.ok and most <= 10 and alive == 0


def test_progress_is_reported():
    steps = []
    check({"a": drawn([0], [1]), "b": drawn([1])}, progress=lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_the_text_names_three_files_and_counts_the_others():
    lines = str(check(drawn(*[[0, 7]] * 9), num_classes=2)).splitlines()
    start = lines.index("     pair 0")
    assert lines[start : start + 4] == ["     pair 0", "     pair 1", "     pair 2", "     and 6 more"]
    assert lines[-1] == "1 problem."


def test_the_picture_shows_samples_under_the_colours_of_their_masks():
    image = np.full((150, 200, 3), 100, "uint8")
    mask = np.zeros((150, 200), "uint8")
    mask[:, 100:150], mask[:, 150:] = 1, 255
    data = Pairs([(image, mask)], labels=["sky", "road"], palette=[[0, 50, 200], [250, 150, 50]])
    picture = np.asarray(check(data).picture()).astype(int)
    sample, over = picture[20:245, 20:320], picture[20:245, 330:630]
    assert (sample == 100).all()
    # 40 % of the image and 60 % of the colour; white where pixels are ignored.
    for colour, part in ([40, 70, 160], over[:, :150]), ([190, 130, 70], over[:, 150:225]):
        assert np.abs(part - colour).max() <= 1
    assert np.abs(over[:, 225:] - 193).max() <= 1
    for colour in data.palette:  # swatches and bars of the histogram
        assert (picture[:, 650:] == colour).all(-1).any()


def test_values_outside_the_classes_stand_out_in_the_picture():
    survey = check(drawn([0, 1], [0, 1], [0, 9]), num_classes=2)
    magenta = (255, 0, 255)
    picture = np.asarray(survey.picture()).astype(int)
    assert (picture == magenta).all(-1).any()
    over = (np.abs(picture - (161, 8, 161)) <= 1).all(-1)  # over an image of 20: half of 200 × 300
    assert over.sum() == 200 * 150
    assert not (np.asarray(check(drawn([0, 1]), num_classes=2).picture()) == magenta).all(-1).any()


@pytest.mark.parametrize("num_classes", [150, 1000])
def test_the_picture_has_room_for_many_classes(num_classes):
    values = np.arange(32 * 48).reshape(32, 48) % num_classes
    names = [f"类别 {i}" if i % 2 else f"class with a rather long name {i}" for i in range(num_classes)]
    picture = check(Pairs([(np.zeros((32, 48, 3), "uint8"), values)], labels=names)).picture()
    assert picture.width < 4000 and picture.height < 2000


def test_names_that_no_font_can_write_are_marked(monkeypatch):
    data = drawn([0, 1], labels=["天空", "road"])
    survey = check(data)
    monkeypatch.setattr(fonts, "FONTS", ())  # nothing but Pillow's own, which is European
    for cached in (fonts._fonts, fonts._font):
        cached.cache_clear()
    written = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, place, text, *how, **more: written.append(text)
    )
    survey.picture()
    for cached in (fonts._fonts, fonts._font):
        cached.cache_clear()
    assert "0  ??" in written and "1  road" in written
    assert any("Install Noto Sans CJK" in text for text in written)


@pytest.mark.parametrize("size", [(32, 3000), (3000, 32), (2500, 4000)])
def test_the_picture_of_huge_and_of_narrow_images_is_small(size):
    data = Pairs([(np.zeros((*size, 3), "uint8"), np.eye(*size, dtype="uint8"))], labels=["a", "b"])
    picture = check(data).picture()
    assert picture.width < 1500 and picture.height < 500


def test_the_picture_leaves_out_pairs_that_cannot_be_read(disk):
    disk.pair("a", 0, 1, 2)
    disk.pair("b", 0, 1, 2)
    (disk.path / "images" / "a.png").write_text("not an image")
    assert check(disk()).picture().height > 200
    (disk.path / "images" / "b.png").write_text("not an image")
    assert check(disk()).picture().height < 200


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_list_of_pairs_is_told_to_be_named():
    pairs = Pairs([(np.zeros((32, 48, 3), "uint8"), np.zeros((32, 48), "uint8"))])
    with pytest.raises(ValueError, match="a list of 2 Pairs. Name them, {'train': a, 'val': b}"):
        check([pairs, pairs])
