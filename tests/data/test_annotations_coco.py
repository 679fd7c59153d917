"""COCO's JSON: the exports of Roboflow, CVAT and Label Studio, drawn in their layouts."""

import json

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data.annotations import coco

SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]  # 10×10 pixels


def box(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(number, image, category, segmentation, **more):
    ids = {"id": number, "image_id": image, "category_id": category}
    return ids | {"segmentation": segmentation} | more


def export(path, annotations, *, categories=((1, "cat"),), images=(("a.jpg", 1),), size=(48, 32)):
    """Writes a JSON file, and images where the file names say, next to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "info": {"description": "drawn"},
        "licenses": [],
        "images": [
            {"id": number, "file_name": name, "width": size[0], "height": size[1]}
            for name, number in images
        ],
        "categories": [
            {"id": each[0], "name": each[1], "supercategory": (*each, "")[2]} for each in categories
        ],
        "annotations": annotations,
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def draw(path, size=(48, 32), **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "grey").save(path, **more)


@pytest.fixture
def here(tmp_path):
    draw(tmp_path / "a.jpg")
    return tmp_path


def test_roboflows_export(tmp_path):
    train = tmp_path / "train"
    names = ["a_jpg.rf.0123456789abcdef.jpg", "b_jpg.rf.fedcba9876543210.jpg"]
    for name in names:
        draw(train / name)
    for foreign in (".DS_Store", "Thumbs.db", "._a_jpg.rf.0123456789abcdef.jpg"):
        (train / foreign).write_bytes(b"x")
    path = export(
        train / "_annotations.coco.json",
        [annotation(0, 0, 1, SQUARE, area=100, iscrowd=0), annotation(1, 0, 2, box(20, 0, 48, 32))],
        # Category 0 is the project's group, which no annotation has.
        categories=[(0, "pets", "none"), (1, "cat", "pets"), (2, "dog", "pets")],
        images=[(names[0], 0), (names[1], 1)],
    )
    pairs = coco(path)
    assert pairs.labels == ("background", "cat", "dog") and pairs.palette.shape == (3, 3)
    image, mask = pairs[0]
    assert image.shape == (32, 48, 3) and mask.dtype == "uint8"
    expected = np.zeros((32, 48), int)
    expected[2:12, 2:12], expected[:, 20:] = 1, 2
    assert (mask == expected).all() and (pairs.mask(0) == mask).all()
    assert not pairs.mask(1).any()  # without annotations: background alone
    assert pairs.name(0) == "a_jpg.rf.0123456789abcdef" and pairs.image_size(1) == (32, 48)
    assert "_annotations.coco.json" in pairs.where(1) and names[1] in pairs.where(1)
    assert pairs.files(0) == (str(train / names[0]), None)
    assert (pairs.image(1) == pairs[1][0]).all()


def test_cvats_export_with_gaps_in_ids_and_both_kinds_of_masks(tmp_path):
    for name in ("street/1.png", "street/2.png"):
        draw(tmp_path / "images" / name)
    columns = [5, 3, 32 * 48 - 8]
    path = export(
        tmp_path / "annotations" / "instances_default.json",
        [
            annotation(1, 1, 9, {"size": [32, 48], "counts": columns}),
            annotation(2, 2, 4, {"size": [32, 48], "counts": "53h_1"}),
        ],
        categories=[(9, "sign"), (4, "road"), (70, "background")],
        images=[("street/1.png", 1), ("street/2.png", 2)],
    )
    pairs = coco(path, tmp_path / "images")
    # In the order of the ids, and the background first.
    assert pairs.labels == ("background", "road", "sign")
    for i, label in ((0, 2), (1, 1)):
        assert (pairs.mask(i)[5:8, 0] == label).all() and np.count_nonzero(pairs.mask(i)) == 3
    assert pairs.name(1) == "street/2"


def test_the_compressed_code_of_the_last_test():
    masks = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((32, 48), "uint8", order="F")
    mask[5:8, 0] = 1
    assert masks.encode(mask)["counts"] == b"53h_1"


@pytest.mark.parametrize(
    "file_name",
    [
        "images/a.jpg",
        "images\\a.jpg",
        "..\\..\\label-studio\\media\\upload\\4\\a.jpg",
        "/home/me/label-studio/media/a.jpg",
        "C:\\data\\a.jpg",
    ],
)
def test_label_studios_names_of_images(tmp_path, file_name):
    draw(tmp_path / "images" / "a.jpg")
    path = export(
        tmp_path / "result.json",
        [annotation(0, 0, 0, SQUARE, ignore=0)],
        categories=[(0, "cat")],
        images=[(file_name, 0)],
    )
    assert np.count_nonzero(coco(path, tmp_path / "images").mask(0)) == 100


def test_a_name_with_dots_stays_in_the_directory(tmp_path):
    draw(tmp_path / "a.jpg")
    (tmp_path / "images").mkdir()
    path = export(tmp_path / "result.json", [], images=[("../a.jpg", 1)])
    with pytest.raises(ValueError, match=r"1 of 1 missing, ../a.jpg"):
        coco(path, tmp_path / "images")


def test_smaller_annotations_are_on_top_whatever_their_order_and_area(here):
    small, large = box(4, 4, 8, 8), box(0, 0, 40, 30)
    for order in ([0, 1], [1, 0]):
        both = [annotation(1, 1, 1, small, area=1e9), annotation(2, 1, 2, large, area=1)]
        path = export(here / "a.json", [both[i] for i in order], categories=[(1, "cat"), (2, "rug")])
        mask = coco(path).mask(0)
        assert (mask[4:8, 4:8] == 1).all() and mask[0, 0] == 2 and (mask == 1).sum() == 16


def test_the_later_one_of_equal_annotations_is_on_top(here):
    two = [annotation(1, 1, 2, SQUARE), annotation(2, 1, 1, SQUARE)]
    path = export(here / "a.json", two, categories=[(1, "cat"), (2, "rug")])
    assert coco(path).mask(0)[5, 5] == 1


def test_crowds_are_ignored(here):
    path = export(here / "a.json", [annotation(1, 1, 1, SQUARE, iscrowd=1)])
    mask = coco(path).mask(0)
    assert (mask[2:12, 2:12] == 255).all() and (mask == 0).sum() == mask.size - 100


def test_several_polygons_are_one_annotation(here):
    path = export(here / "a.json", [annotation(1, 1, 1, SQUARE + box(20, 20, 22, 23))])
    assert np.count_nonzero(coco(path).mask(0)) == 106


def test_without_background_uncovered_pixels_are_ignored(here):
    path = export(here / "a.json", [annotation(1, 1, 1, SQUARE)])
    pairs = coco(path, background=None)
    assert pairs.labels == ("cat",) and pairs.mask(0)[3, 3] == 0 and pairs.mask(0)[0, 0] == 255
    assert coco(path, background="rest").labels == ("rest", "cat")


def test_with_many_classes_65535_is_ignored(here):
    categories = [(i, f"class {i}") for i in range(300)]
    both = [annotation(1, 1, 299, SQUARE), annotation(2, 1, 0, box(20, 2, 24, 6), iscrowd=1)]
    mask = coco(export(here / "a.json", both, categories=categories)).mask(0)
    assert mask.dtype == "uint16" and mask[5, 5] == 300 and mask[3, 21] == 65535


def test_colours_come_along_where_all_categories_have_one(here):
    path = export(here / "a.json", [])
    data = json.loads(path.read_text())
    data["categories"] = [
        {"id": 1, "name": "cat", "color": "#f1c40f"},
        {"id": 2, "name": "dog", "color": [1, 2, 3]},
    ]
    path.write_text(json.dumps(data))
    assert coco(path).palette.tolist() == [[0, 0, 0], [241, 196, 15], [1, 2, 3]]
    del data["categories"][1]["color"]
    path.write_text(json.dumps(data))
    assert coco(path).palette[1].tolist() == [30, 245, 245]  # the default


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data.pop("categories"), "must have 'categories'. Received: the keys"),
        (lambda data: data.update(images={}), "'images' of .* must be a list. Received: {}"),
        (lambda data: data.update(annotations=[1]), "list of objects. Received: 1 at place 0"),
        (lambda data: data.update(images=[]), "must have images. Received: none"),
        (lambda data: data["images"][0].pop("file_name"), "image 1 of .* must have 'file_name'"),
        (lambda data: data["images"][0].update(id=[1]), "must be an integer or a string"),
        (lambda data: data["images"].append(data["images"][0]), "Ids of images .* 1 twice"),
        (lambda data: data["categories"].append({"id": 1, "name": "b"}), "Ids of categories"),
        (lambda data: data["categories"].append({"id": 2, "name": "cat"}), "unique in .* 'cat' twice"),
        (lambda data: data["categories"][0].update(id=True), "'id' .* must be an integer. .* True"),
        (
            lambda data: data["annotations"][0].update(image_id=5),
            "'image_id' .* one of the images of .* Received: 5 in 1 annotations, 1",
        ),
        (
            lambda data: data["annotations"][0].update(category_id=5),
            "'category_id' .* one of the categories of .* Received: 5 in 1 annotations, 1",
        ),
        (
            lambda data: data["annotations"][0].update(segmentation=[]),
            "Received: 1 of 1 annotations without, 1, of .* Boxes alone",
        ),
        (
            lambda data: data["images"].append({"id": 2, "file_name": "b.jpg"}),
            "must exist in .* Received: 1 of 2 missing, b.jpg",
        ),
        (
            lambda data: data["images"].append({"id": 2, "file_name": "x/a.jpg"}),
            "a file of its own in .* Received: '.*a.jpg' for two of them",
        ),
    ],
)
def test_invalid_files_are_errors_that_name_them(here, change, message):
    path = export(here / "a.json", [annotation(1, 1, 1, SQUARE)])
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as error:
        coco(path)
    assert "a.json" in str(error.value)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([[1, 2, "3", 4]], "Coordinates must be numbers. Received: "),
        ([[1, 2, None, 4]], "Coordinates must be numbers"),
        ([[1, 2, [3], 4]], "Coordinates must be numbers"),
        ([[1, 2, 10**400, 4]], "Coordinates must be numbers"),
        ([[1, 2, 1e12, 4, 5, 6]], "must be finite"),
        ([[1, 2, float("nan"), 4, 5, 6]], "must be finite"),
        ([[1, 2, 3, 4, 5]], "Received: 5 numbers"),
        ([1, 2, 3, 4, 5, 6], r"must be a list \[x, y, x, y, …\]. Received: 1"),
        ({"size": [48, 32], "counts": [1536]}, r"that of the image, \[32, 48\]"),
        ({"size": [32, 48], "counts": [1536, 1]}, "sum of 1536"),
        ({"size": [32, 48]}, "must be a list or a string. Received: None"),
    ],
)
def test_invalid_segmentations_are_errors_when_read(here, segmentation, message):
    pairs = coco(export(here / "a.json", [annotation(77, 1, 1, segmentation)]))
    with pytest.raises(ValueError, match=message) as error:
        pairs.mask(0)
    assert "the annotation 77 of" in str(error.value) and "a.jpg" in str(error.value)


def test_an_image_of_another_size_is_an_error(here):
    pairs = coco(export(here / "a.json", [], size=(64, 64)))
    with pytest.raises(ValueError, match=r"Received: 64×64 and 32×48 \(height×width\) in .*a.jpg"):
        pairs[0]


def test_an_image_that_exif_turns_is_an_error_that_says_so(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    draw(tmp_path / "a.jpg", exif=exif)
    pairs = coco(export(tmp_path / "a.json", []))
    with pytest.raises(ValueError, match="The EXIF orientation 6 turns the image"):
        pairs[0]


def test_sizes_may_be_left_out(here):
    path = export(here / "a.json", [annotation(1, 1, 1, SQUARE)])
    data = json.loads(path.read_text())
    data["images"][0].update(width=None, height=None)
    path.write_text(json.dumps(data))
    assert coco(path).mask(0).shape == (32, 48)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{'a': 1}", "must be JSON"),
        (b"\xff\xfe{}", "must be JSON"),
        (b"[1]", r"must have an object, {…}. Received: \[1\]"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "must be JSON"),
    ],
)
def test_a_file_that_is_not_json_is_an_error(here, content, message):
    (here / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        coco(here / "a.json")


def test_missing_files_and_directories_are_errors(here):
    with pytest.raises(FileNotFoundError, match="There is no annotation file '.*none.json'"):
        coco(here / "none.json")
    with pytest.raises(FileNotFoundError, match="Received: '.*none', which is no directory"):
        coco(export(here / "a.json", []), here / "none")


def test_images_and_annotations_one_level_too_high_or_low_are_found(tmp_path):
    draw(tmp_path / "data" / "images" / "a.jpg")
    path = export(tmp_path / "data" / "annotations" / "a.json", [])
    for directory in (tmp_path / "data", tmp_path / "data" / "annotations"):
        with pytest.raises(ValueError, match="1 of 1 missing, a.jpg. They are in '.*data/images'"):
            coco(path, directory)
    with pytest.raises(FileNotFoundError, match="no directory. They are in '.*data/images': give it"):
        coco(path, tmp_path / "none")
    for given in (tmp_path / "data", tmp_path / "data" / "annotations"):
        with pytest.raises(FileNotFoundError, match="is a directory. .*: '?.*annotations/a.json"):
            coco(given)
    with pytest.raises(FileNotFoundError, match="no annotation file .*b.json.*: .*annotations/a.json"):
        coco(path.with_name("b.json"))
