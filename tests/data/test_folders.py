"""Folders of images and masks: matching, renaming, and what is said when something is missing."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data import camvid, folder
from keras_encnet.data.checks import check_masks

CAMVID = pathlib.Path(__file__).parents[3] / "shared" / "camvid"


def write(path, value=0, size=(48, 32)):
    path.parent.mkdir(exist_ok=True)
    mode = "RGB" if path.suffix == ".jpg" or isinstance(value, tuple) else "L"
    Image.new(mode, size, value).save(path)


@pytest.fixture
def here(tmp_path):
    for name in ("1", "2", "10"):
        write(tmp_path / "images" / f"{name}.jpg")
        write(tmp_path / "masks" / f"{name}.png", int(name))
    return tmp_path


def order(pairs):
    return [int(mask[0, 0]) for image, mask in pairs]


def test_directories_are_paired_by_name_in_natural_order(here):
    pairs = folder(here / "images", str(here / "masks"), labels=["sky", "road"])
    assert order(pairs) == [1, 2, 10]
    image, mask = pairs[0]
    assert image.shape == (32, 48, 3) and image.dtype == "uint8" and mask.shape == (32, 48)
    assert pairs.labels == ("sky", "road") and pairs.palette is None
    assert "masks/10.png" in pairs.where(2) and "images/10.jpg" in pairs.where(2)


def test_a_slice_is_pairs_again(here):
    part = folder(here / "images", here / "masks", labels=["a"])[1:]
    assert order(part) == [2, 10] and part.labels == ("a",)
    assert "10.png" in part.where(1) and part.image_size(1) == (32, 48)
    assert order(part[-1:]) == [10] and int(part[-1][1][0, 0]) == 10
    assert order(part.load()) == [2, 10] and "10.png" in part.load().where(1)


@pytest.mark.parametrize(
    "image, mask",
    [
        ("x/{}.jpg", "y/{}.png"),
        ("x/{}_rgb.jpg", "y/{}_mask.png"),
        ("x/img{}.jpg", "x/seg{}.png"),
        ("{}/a.jpg", "{}/b.png"),
        ("x/{}.v2.jpg", "y/{}.v1.png"),
    ],
)
def test_globs_are_paired_by_what_the_star_stands_for(tmp_path, image, mask):
    for name in ("1", "2", "10"):
        write(tmp_path / image.format(name))
        write(tmp_path / mask.format(name), int(name))
    pairs = folder(tmp_path / image.format("*"), tmp_path / mask.format("*"))
    assert order(pairs) == [1, 2, 10]


@pytest.mark.parametrize("pattern", ["*.*", "*", "*.[jp][pn]g", "**/*.jpg", "?*.jpg"])
def test_endings_and_directories_may_be_wild(here, pattern):
    masks = here / "masks" / (pattern if "jpg" not in pattern else pattern.replace("jpg", "png"))
    assert order(folder(here / "images" / pattern, masks)) == [1, 2, 10]


def test_label_map_renames_all_values_at_once(tmp_path):
    write(tmp_path / "i" / "0.jpg", size=(40, 32))
    labels = np.repeat([0, 1, 2, 255], 10)[None].repeat(32, 0).astype("uint8")
    (tmp_path / "m").mkdir()
    Image.fromarray(labels).save(tmp_path / "m" / "0.png")
    shifted = folder(tmp_path / "i", tmp_path / "m", label_map={0: 255, 1: 0, 2: 1})[0][1]
    assert shifted[0, ::10].tolist() == [255, 0, 1, 255] and shifted.dtype == "uint8"
    Image.fromarray(labels.astype("uint16") * 100).save(tmp_path / "m" / "0.png")
    renamed = folder(tmp_path / "i", tmp_path / "m", label_map={200: 7, 25500: 255})[0][1]
    assert renamed[0, ::10].tolist() == [0, 100, 7, 255]
    with pytest.raises(ValueError, match="label_map.*-1"):
        folder(tmp_path / "i", tmp_path / "m", label_map={255: -1})


def test_palette_reads_colours_and_label_map_names_more_of_them(tmp_path):
    write(tmp_path / "i" / "0.jpg")
    write(tmp_path / "m" / "0.png", (0, 128, 192))
    palette = [(128, 0, 0), (0, 128, 192)]
    pairs = folder(tmp_path / "i", tmp_path / "m", palette=palette, label_map={(0, 0, 0): 255})
    assert set(pairs[0][1].ravel()) == {1} and pairs.palette.tolist() == [list(c) for c in palette]
    write(tmp_path / "m" / "0.png", (0, 0, 0))
    assert set(pairs[0][1].ravel()) == {255}
    write(tmp_path / "m" / "0.png", (9, 9, 9))
    with pytest.raises(ValueError, match=r"0.png.*\(9, 9, 9\)"):
        pairs[0]


def test_an_empty_folder_and_a_glob_without_match_are_errors(here):
    (here / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty.*holds no images"):
        folder(here / "empty", here / "masks")
    with pytest.raises(FileNotFoundError, match="No masks match.*tiff"):
        folder(here / "images", here / "masks" / "*.tiff")
    with pytest.raises(FileNotFoundError, match="neither a directory nor a glob"):
        folder(here / "nowhere", here / "masks")


def test_images_without_mask_and_masks_without_image_are_named(here):
    write(here / "masks" / "11.png")
    with pytest.raises(ValueError, match="1 of 4 masks have no image.*11.png"):
        folder(here / "images", here / "masks")
    for i in range(11, 17):
        write(here / "images" / f"{i}.jpg")
    with pytest.raises(ValueError, match="5 of 9 images have no mask.*12.jpg.*14.jpg and 2 more"):
        folder(here / "images", here / "masks")


def test_two_files_of_one_name_are_named(here):
    write(here / "images" / "2.png")
    with pytest.raises(ValueError, match=r"Two images.*'2'.*2.jpg.*2.png"):
        folder(here / "images", here / "masks")


def test_image_and_mask_of_different_size_are_named(here):
    write(here / "masks" / "2.png", size=(32, 48))
    pairs = folder(here / "images", here / "masks")
    with pytest.raises(ValueError, match=r"\(32, 48\) and \(48, 32\).*2.png.*2.jpg"):
        pairs[1]


def test_camvid_has_its_classes_and_ignores_void(tmp_path):
    write(tmp_path / "val" / "a.png", (1, 2, 3))
    write(tmp_path / "valannot" / "a.png", 11)
    pairs = camvid(tmp_path, "val")
    assert len(pairs.labels) == len(pairs.palette) == 11
    assert pairs.labels[8] == "car" and pairs.palette[8].tolist() == [64, 0, 128]
    assert set(pairs[0][1].ravel()) == {255}
    with pytest.raises(ValueError, match="'validation'"):
        camvid(tmp_path, "validation")


@pytest.mark.skipif(not CAMVID.exists(), reason="CamVid is not here")
def test_the_real_camvid():
    pairs = camvid(CAMVID, "val")
    assert len(pairs) == 101 and pairs[0][0].shape == (360, 480, 3)
    check_masks(pairs[:10], 11)
