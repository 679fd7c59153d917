"""LabelMe's JSON files: shapes of all types, images beside and within them."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data.annotations import labelme


def shape(label, kind, points, **more):
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
    } | more


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write(path, shapes, *, image="a.jpg", size=(48, 32), data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": data,
        "imageHeight": size[1],
        "imageWidth": size[0],
    }
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def here(tmp_path):
    Image.new("RGB", (48, 32), "grey").save(tmp_path / "a.jpg")
    return tmp_path


def mask_of(here, *shapes, **options):
    write(here / "a.json", list(shapes))
    return labelme(here, **options).mask(0)


def test_a_folder_of_labelme(here):
    for name in ("2", "10"):
        Image.new("RGB", (48, 32)).save(here / f"{name}.png")
        write(here / f"{name}.json", [shape("dog", "polygon", [[1, 1], [3, 1], [3, 4], [1, 4]])],
              image=f"{name}.png")  # fmt: skip
    write(here / "a.json", [shape("cat", "rectangle", [[8, 6], [4, 2]])])
    (here / "._a.json").write_bytes(b"\0")
    (here / ".DS_Store").write_bytes(b"\0")
    (here / "settings.json").write_text("{}")
    pairs = labelme(here)
    assert pairs.labels == ("background", "cat", "dog") and pairs.palette.shape == (3, 3)
    assert [pairs.name(i) for i in range(3)] == ["2", "10", "a"]
    image, mask = pairs[0]
    assert image.shape == (32, 48, 3) and mask.dtype == "uint8"
    assert (mask[1:4, 1:3] == 2).all() and np.count_nonzero(mask) == 6
    assert (pairs.mask(2)[2:6, 4:8] == 1).all() and np.count_nonzero(pairs.mask(2)) == 16
    assert "a.json" in pairs.where(2) and pairs.files(2) == (str(here / "a.jpg"), None)


def test_later_shapes_are_on_top(here):
    large, small = [[0, 0], [40, 30]], [[4, 4], [8, 8]]
    mask = mask_of(here, shape("b", "rectangle", small), shape("a", "rectangle", large))
    assert mask[5, 5] == 1 and (mask == 2).sum() == 0


def test_circles_lines_and_points_have_the_areas_of_their_shapes(here):
    circle = mask_of(here, shape("a", "circle", [[24, 16], [34, 16]]))
    assert abs(np.count_nonzero(circle) - np.pi * 100) < 6
    assert circle[16, 14:34].all() and not circle[16, 13] and not circle[16, 34]
    line = mask_of(here, shape("a", "line", [[10, 16], [30, 16]]))
    assert line[11:21, 10:30].all() and np.count_nonzero(line) == 200
    strip = mask_of(here, shape("a", "linestrip", [[10, 5], [10, 25], [40, 25]]))
    assert strip[5:25, 5:15].all() and strip[20:30, 10:40].all()
    point = mask_of(here, shape("a", "point", [[24, 16]]))
    assert abs(np.count_nonzero(point) - np.pi * 25) < 4


def test_masks_of_ai_tools_are_read_as_they_are(here):
    inside = np.array([[0, 1, 1], [1, 1, 0]], "uint8")
    mask = mask_of(here, shape("a", "mask", [[5, 7], [7, 8]], mask=png(inside)))
    assert (mask[7:9, 5:8] == inside).all() and np.count_nonzero(mask) == 4
    everything = np.ones((32, 48), bool)
    assert mask_of(here, shape("a", "mask", [[0, 0], [47, 31]], mask=png(everything))).all()


@pytest.mark.parametrize(
    "points, mask, message",
    [
        ([[5, 7], [8, 8]], png(np.ones((2, 3), bool)), r"Received: 2×3 for the box \[\[5.0, 7.0\]"),
        ([[46, 7], [48, 8]], png(np.ones((2, 3), bool)), "lie in the image of 32×48"),
        ([[-1, 7], [1, 8]], png(np.ones((2, 3), bool)), "lie in the image of 32×48"),
        ([[0, 0], [1e6, 1e6]], png(np.ones((2, 3), bool)), "must have the size of its box"),
        ([[5, 7], [7, 8]], "no base64!", "'mask' must be in base64"),
        ([[5, 7], [7, 8]], base64.b64encode(b"no image").decode(), "it is not an image"),
        ([[5, 7], [7, 8]], png(np.ones((2, 3), bool))[:-40], "truncated|base64"),
    ],
)
def test_invalid_masks_are_errors_that_name_the_shape(here, points, mask, message):
    write(here / "a.json", [shape("cat", "mask", points, mask=mask)])
    pairs = labelme(here)
    with pytest.raises(ValueError, match=message) as error:
        pairs.mask(0)
    assert "shape at place 0, 'cat'," in str(error.value) and "a.json" in str(error.value)


def test_ignored_and_background_shapes(here):
    mask = mask_of(
        here,
        shape("cat", "rectangle", [[0, 0], [20, 20]]),
        shape("__ignore__", "rectangle", [[0, 0], [4, 4]]),
        shape("_background_", "rectangle", [[10, 10], [14, 14]]),
        labels=["cat"],
    )
    assert mask[2, 2] == 255 and mask[12, 12] == 0 and mask[7, 7] == 1


def test_labels_give_the_order_and_may_be_those_of_labels_txt(here):
    write(here / "a.json", [shape("dog", "rectangle", [[0, 0], [4, 4]])])
    pairs = labelme(here, labels=["__ignore__", "_background_", "horse", "dog"])
    assert pairs.labels == ("_background_", "horse", "dog") and pairs.mask(0)[1, 1] == 2
    pairs = labelme(here, labels=["dog"], background=None)
    assert pairs.labels == ("dog",) and pairs.mask(0)[1, 1] == 0 and pairs.mask(0)[9, 9] == 255
    with pytest.raises(ValueError, match=r"must be in `labels`, .* Received: 'dog' in '.*a.json'"):
        labelme(here, labels=["cat"])


@pytest.mark.parametrize("image", ["..\\photos\\b.png", "/home/me/b.png", "../elsewhere/b.png"])
def test_the_image_is_found_by_its_path_or_next_to_the_file(tmp_path, image):
    place = tmp_path / ("photos" if "photos" in image else "json")
    place.mkdir()
    Image.new("RGB", (48, 32)).save(place / "b.png")
    write(tmp_path / "json" / "b.json", [], image=image)
    assert labelme(tmp_path / "json")[0][0].shape == (32, 48, 3)


def test_embedded_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), "uint8")
    write(tmp_path / "a.json", [shape("a", "rectangle", [[0, 0], [4, 4]])], data=png(pixels))
    pairs = labelme(tmp_path)
    image, mask = pairs[0]
    assert (image == pixels).all() and mask[:4, :4].all() and pairs.files(0) is None
    assert pairs.image_size(0) == (32, 48) and (pairs.mask(0) == mask).all()


def test_a_missing_image_is_an_error_that_names_it(tmp_path):
    write(tmp_path / "a.json", [], image="photos/b.png")
    with pytest.raises(ValueError, match=r"image of .*a.json.* Received: 'photos/b.png'"):
        labelme(tmp_path)


def test_an_image_of_another_size_is_an_error(here):
    write(here / "a.json", [], size=(64, 64))
    with pytest.raises(ValueError, match=r"Received: 64×64 and 32×48 \(height×width\) in .*a.json"):
        labelme(here)[0]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"shapes": []}, "must have 'imagePath'. Received: the keys"),
        ({"imagePath": "a.jpg"}, "must have 'shapes'"),
        ({"imagePath": "a.jpg", "shapes": [{"points": []}]}, "place 0 of .* must have 'label'"),
        ({"shapes": [shape("a", "cube", [])]}, "'shape_type' of .* Received: 'cube'"),
        ({"shapes": [shape("a", "circle", [[1, 2]])]}, "a circle, must have 2 points. Received: 1"),
        ({"shapes": [shape("a", "polygon", [[1, 2], [3]])]}, r"must be \[x, y\]. Received"),
        ({"shapes": [shape("a", "polygon", [[1, "2"]])]}, "Coordinates of .* must be numbers"),
        ({"shapes": [shape("a", "circle", [[1, 2], [1e308, 4]])]}, "must be finite and at most 2684"),
        ({"shapes": [shape("a", "mask", [[1, 2], [3, 4]])]}, "must have 'mask'"),
    ],
)
def test_invalid_files_are_errors_that_name_them(here, content, message):
    (here / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        labelme(here)
    assert "a.json" in str(error.value)


def test_a_folder_without_labelmes_files_is_an_error(here):
    for folder in (here, here / "none"):
        with pytest.raises(FileNotFoundError, match="Received: '.*', which has none"):
            labelme(folder)
    (here / "a.json").write_text("{")
    with pytest.raises(ValueError, match="must be JSON"):
        labelme(here)


def test_folders_one_level_too_high_or_low_are_found(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "data" / split / "a.json", [])
        Image.new("RGB", (48, 32)).save(tmp_path / "data" / split / "a.jpg")
    (tmp_path / "data" / "train" / "more").mkdir()
    with pytest.raises(FileNotFoundError, match="none. They are in '.*data/train' or '.*data/val'"):
        labelme(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="none. They are in '.*data/train'. Give one"):
        labelme(tmp_path / "data" / "train" / "more")
