"""Exports with mask files: labelme2voc, CVAT's "Segmentation mask 1.1", Roboflow's masks."""

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data.annotations import voc, voc_splits

VOC_COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]  # as labelme2voc writes them


def image(path, size=(48, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "grey").save(path)


def mask(path, values, colours=None):
    """A mask of vertical stripes of these values: a palette file if there are colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = np.repeat(np.array(values, "uint8")[None], 32, axis=0).repeat(48 // len(values), axis=1)
    file = Image.fromarray(stripes)
    if colours is not None:
        file = file.convert("P")
        palette = np.zeros((256, 3), "uint8")
        palette[: len(colours)] = colours
        file.putpalette(palette.ravel().tolist())
    file.save(path)


def stripes(found):
    assert (found == found[:1]).all() and found.shape == (32, 48)
    return list(dict.fromkeys(found[0].tolist()))


def foreign_files(*directories):
    for directory in directories:
        for name in (".DS_Store", "Thumbs.db", "._1.png", "desktop.ini"):
            (directory / name).write_bytes(b"x")


@pytest.fixture(params=["SegmentationClassPNG", "SegmentationClass"])
def labelme2voc(tmp_path, request):
    # Older versions write PNG into a directory of its own, and arrays into SegmentationClass.
    for name in ("2", "10"):
        image(tmp_path / "JPEGImages" / f"{name}.jpg")
        mask(tmp_path / request.param / f"{name}.png", [0, 1, 255, 2], VOC_COLOURS)
        image(tmp_path / "SegmentationClassVisualization" / f"{name}.jpg")
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        np.save(tmp_path / "SegmentationClass" / f"{name}.npy", np.zeros((32, 48), "int32"))
    (tmp_path / "class_names.txt").write_text("_background_\ncat\ndog")
    foreign_files(tmp_path, tmp_path / "JPEGImages", tmp_path / request.param)
    return tmp_path


def test_labelme2voc(labelme2voc):
    pairs = voc(labelme2voc)
    assert pairs.labels == ("_background_", "cat", "dog")
    assert pairs.palette.tolist() == [list(colour) for colour in VOC_COLOURS[:3]]
    assert [pairs.name(i) for i in range(len(pairs))] == ["2", "10"]
    picture, found = pairs[0]
    assert picture.shape == (32, 48, 3) and stripes(found) == [0, 1, 255, 2]
    assert "2.png" in pairs.where(0) and "2.jpg" in pairs.where(0)
    assert [file[-6:-4] for file in pairs.files(1)] == ["10", "10"]


def test_the_line_ignore_is_no_class(labelme2voc):
    (labelme2voc / "class_names.txt").write_text("__ignore__\r\n_background_\r\ncat\r\ndog\r\n")
    assert voc(labelme2voc).labels == ("_background_", "cat", "dog") and not voc_splits(labelme2voc)


def test_grey_masks_have_the_default_colours(labelme2voc):
    for directory in ("SegmentationClassPNG", "SegmentationClass"):
        for path in (labelme2voc / directory).glob("[0-9]*.png"):
            mask(path, [0, 1, 255, 2])
    pairs = voc(labelme2voc)
    assert stripes(pairs.mask(0)) == [0, 1, 255, 2] and pairs.palette[0].tolist() == [221, 54, 54]


@pytest.fixture
def cvat(tmp_path):
    colours = [(250, 50, 83), (0, 0, 0), (61, 61, 245)]
    for name in ("frames/a", "frames/b b", "c"):
        image(tmp_path / "JPEGImages" / f"{name}.png")
        path = tmp_path / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(colours, "uint8")[None].repeat(32, 0).repeat(16, 1)).save(path)
        mask(tmp_path / "SegmentationObject" / f"{name}.png", [9])
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text('frames/a\n"frames/b b"\n')
    (lists / "val.txt").write_text("c\n")
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:61,61,245::\nroad:250,50,83::\n"
    )
    foreign_files(tmp_path / "JPEGImages" / "frames", tmp_path / "SegmentationClass", lists)
    return tmp_path


def test_cvats_segmentation_mask(cvat):
    pairs = voc(cvat)
    assert len(pairs) == 3 and pairs.labels == ("background", "cat", "road")
    assert pairs.palette.tolist() == [[0, 0, 0], [61, 61, 245], [250, 50, 83]]
    assert stripes(pairs[0][1]) == [2, 0, 1]
    assert voc_splits(cvat) == ["train", "val"]
    train, val = voc(cvat, "train"), voc(cvat, "val")
    assert [train.name(i) for i in range(2)] == ["frames/a", "frames/b b"]
    assert len(val) == 1 and stripes(val.mask(0)) == [2, 0, 1]


def test_cvats_ignored_class_and_unknown_colours(cvat):
    path = cvat / "labelmap.txt"
    path.write_text(path.read_text().replace("road:", "__ignore__:"))
    pairs = voc(cvat)
    assert pairs.labels == ("background", "cat") and stripes(pairs.mask(0)) == [255, 0, 1]
    path.write_text(path.read_text().replace("250,50,83", "1,2,3"))
    with pytest.raises(ValueError, match=r"\(250, 50, 83\) in 512 pixels"):
        voc(cvat).mask(0)


@pytest.fixture
def roboflow(tmp_path):
    for split, names in (("train", "12"), ("valid", "3"), ("test", "4")):
        for name in names:
            stem = f"{name}_jpg.rf.0123456789abcdef"
            image(tmp_path / split / f"{stem}.jpg")
            mask(tmp_path / split / f"{stem}_mask.png", [0, 2, 1])
        (tmp_path / split / "_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, cat\n2, dog\n"
        )
        foreign_files(tmp_path / split)
    (tmp_path / "README.roboflow.txt").write_text("drawn")
    return tmp_path


def test_roboflows_masks(roboflow):
    pairs = voc(roboflow)
    assert len(pairs) == 4 and pairs.labels == ("background", "cat", "dog")
    assert pairs.palette.shape == (3, 3) and stripes(pairs[0][1]) == [0, 2, 1]
    assert pairs.name(2) == "valid/3_jpg.rf.0123456789abcdef"
    assert [len(voc(roboflow, split)) for split in ("train", "valid", "val", "test")] == [2, 1, 1, 1]
    assert len(voc(roboflow / "train")) == 2 and voc_splits(roboflow / "train") == []
    assert voc_splits(roboflow) == ["train", "valid", "test"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("filename, cat, dog\n1.jpg, 0, 1\n", "headed 'Pixel Value, Class'. Received: .'filename'"),
        ("Pixel Value, Class\n0, a\n2, b\n", "from 0 without gaps. Received: the values .'0', '2'."),
        ("Pixel Value, Class\n", "a pixel value and a class in each line"),
        ("", r"headed 'Pixel Value, Class'. Received: \[\]"),
    ],
)
def test_roboflows_classes_that_are_invalid(roboflow, text, message):
    (roboflow / "train" / "_classes.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        voc(roboflow, "train")


def test_roboflows_splits_must_have_the_same_classes(roboflow):
    (roboflow / "test" / "_classes.csv").write_text("Pixel Value, Class\n0, a\n")
    with pytest.raises(ValueError, match="must be the same in all directories"):
        voc(roboflow)
    (roboflow / "train" / "1_jpg.rf.0123456789abcdef_mask.png").unlink()
    with pytest.raises(ValueError, match=r"1 without, .*train.1_jpg.rf.0123456789abcdef.jpg"):
        voc(roboflow, "train")


def test_a_split_of_cvat_that_does_not_exist(cvat):
    with pytest.raises(ValueError, match=r"'train', 'val'. Received: 'test'"):
        voc(cvat, "test")


def test_a_split_of_roboflow_that_does_not_exist(roboflow):
    with pytest.raises(ValueError, match=r"'train', 'valid', 'test'. Received: 'holdout'"):
        voc(roboflow, "holdout")


def test_names_without_image_or_mask_are_errors(cvat):
    (cvat / "ImageSets" / "Segmentation" / "val.txt").write_text("c\nd\n")
    with pytest.raises(ValueError, match=r"'val', must have a mask .* 1 of 2 without, d. "):
        voc(cvat, "val")
    (cvat / "JPEGImages" / "c.png").unlink()
    with pytest.raises(ValueError, match=r"must have an image in .* 1 of 3 without, c. "):
        voc(cvat)
    assert len(voc(cvat, "train")) == 2


@pytest.mark.parametrize("line", ["cat", "cat:1,2::", "cat:1,2,x::", "cat:1,2,256::", "cat:::"])
def test_lines_of_a_labelmap_that_are_invalid(cvat, line):
    (cvat / "labelmap.txt").write_text(f"background:0,0,0::\n{line}\n")
    with pytest.raises(ValueError, match=f"'name:red,green,blue::', .* Received: '{line}'"):
        voc(cvat)


def test_missing_parts_are_errors_that_name_them(cvat):
    with pytest.raises(FileNotFoundError, match="`root` must be a directory. Received: '.*none'"):
        voc(cvat / "none")
    (cvat / "JPEGImages").rename(cvat / "pictures")
    with pytest.raises(FileNotFoundError, match="image files in JPEGImages. .* 'Save images'"):
        voc(cvat)
    (cvat / "labelmap.txt").unlink()
    with pytest.raises(FileNotFoundError, match="'class_names.txt', 'labelmap.txt' or '_classes.csv'"):
        voc(cvat)


def test_two_images_of_one_name_are_an_error(cvat):
    image(cvat / "JPEGImages" / "c.jpg")
    with pytest.raises(ValueError, match="unique without their endings. Received: '.*c.jpg' and"):
        voc(cvat)


def test_a_root_one_level_too_high_or_low_is_found(cvat):
    root = cvat / "a" / "b"
    root.mkdir(parents=True)
    for part in ("JPEGImages", "labelmap.txt"):
        (cvat / part).rename(root / part)
    for given in (cvat / "a", root / "JPEGImages"):
        with pytest.raises(FileNotFoundError, match=f"none of them. Give '{root}', which has one"):
            voc(given)
