"""Folders of images and masks: matching, label maps, and errors about missing files."""

import pickle
import unicodedata

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data import folder
from keras_encnet.data.folders import image_paths


def write(path, value=0, size=(48, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
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


def test_images_alone(here):
    pairs = folder(here / "images", labels=["sky", "road"])
    assert not pairs.has_masks and [pairs.name(i) for i in range(len(pairs))] == ["1", "2", "10"]
    image, mask = pairs[2]
    assert image.shape == (32, 48, 3) and mask is None and pairs.where(2).endswith("10.jpg")


def test_a_slice_is_also_pairs(here):
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
def test_globs_are_paired_by_the_part_of_the_wildcards(tmp_path, image, mask):
    for name in ("1", "2", "10"):
        write(tmp_path / image.format(name))
        write(tmp_path / mask.format(name), int(name))
    pairs = folder(tmp_path / image.format("*"), tmp_path / mask.format("*"))
    assert order(pairs) == [1, 2, 10]


@pytest.mark.parametrize("pattern", ["*.*", "*", "*.[jp][pn]g", "**/*.jpg", "?*.jpg"])
def test_endings_and_directories_may_have_wildcards(here, pattern):
    masks = here / "masks" / (pattern if "jpg" not in pattern else pattern.replace("jpg", "png"))
    assert order(folder(here / "images" / pattern, masks)) == [1, 2, 10]


def test_names_in_two_unicode_forms_are_the_same(tmp_path):
    write(tmp_path / "i" / (unicodedata.normalize("NFC", "café") + ".jpg"))
    write(tmp_path / "m" / (unicodedata.normalize("NFD", "café") + ".png"), 7)
    for images, masks in (("i", "m"), ("i/*.jpg", "m/*.png")):
        assert order(folder(tmp_path / images, tmp_path / masks)) == [7]


def test_brackets_in_the_name_of_a_directory_that_exists_are_literal(tmp_path):
    here = tmp_path / "set [2]"
    here.mkdir()
    for name in ("1", "2", "10"):
        write(here / "images" / f"{name}.jpg")
        write(here / "masks" / f"{name}.png", int(name))
    assert order(folder(here / "images" / "*.jpg", here / "masks" / "*.png")) == [1, 2, 10]
    assert order(folder(here / "images" / "[0-9].jpg", here / "masks" / "?.png")) == [1, 2]
    assert order(folder(here / "images", here / "masks")) == [1, 2, 10]


def test_other_files_of_a_directory_are_no_images(here):
    for part in ("images", "masks"):
        (here / part / "README").touch()
        (here / part / "notes.txt").touch()
    (here / "images" / "LICENSE").touch()
    assert order(folder(here / "images", here / "masks")) == [1, 2, 10]
    assert [path.name for path in image_paths(here / "images")] == ["1.jpg", "2.jpg", "10.jpg"]
    # A glob may name them.
    assert image_paths(here / "images" / "LIC*") == [here / "images" / "LICENSE"]


@pytest.mark.parametrize("images, masks", [("", ""), ("*", "*"), ("*.*", "*.*"), ("**/*", "**/*")])
def test_hidden_and_foreign_files_never_disturb(here, images, masks):
    for part in ("images", "masks"):
        for name in (".DS_Store", "._1.jpg", "._1.png", "Thumbs.db", "desktop.ini", ".hidden.png"):
            (here / part / name).write_bytes(b"\0\5\x16\7")
        for directory in ("__MACOSX", "@eaDir", ".thumbnails"):
            write(here / part / directory / "1.png")
            write(here / part / directory / "7.png")
    pairs = folder(here / "images" / images, here / "masks" / masks)
    assert order(pairs) == [1, 2, 10] and len(image_paths(here / "images" / images)) == 3


def test_names_are_paths_below_the_directory_without_ending(here):
    write(here / "images" / "a b" / "c.v2_rgb.jpg")
    write(here / "masks" / "a b" / "c.v2.png")

    def names(images, masks):
        pairs = folder(here / "images" / images, here / "masks" / masks)
        return [pairs.name(i) for i in range(len(pairs))]

    assert names("", "") == names("*.jpg", "*.png") == ["1", "2", "10"]
    assert names("*/*_rgb.jpg", "*/*.png") == ["a b/c.v2_rgb"]
    part = folder(here / "images", here / "masks")[1:]
    assert [part.name(i) for i in range(len(part))] == ["2", "10"]


def test_an_image_is_read_without_its_mask(here):
    (here / "masks" / "1.png").write_bytes(b"broken")
    pairs = folder(here / "images", here / "masks")
    assert pairs.image(0).shape == (32, 48, 3)
    with pytest.raises(ValueError, match="1.png"):
        pairs[0]


def test_pairs_of_files_can_be_sent_to_another_process(here):
    pairs = pickle.loads(pickle.dumps(folder(here / "images", here / "masks", label_map={10: 3})))
    assert order(pairs) == [1, 2, 3] and pairs.name(2) == "10"


def test_image_paths(here, monkeypatch):
    images = here / "images"
    (images / "._1.jpg").write_bytes(b"\0\5\x16\7")
    (images / "notes.txt").write_text("no image")
    (images / "²3.jpg").touch()  # a digit, but not a number
    (images / "inner.jpg").mkdir()
    names = ["1.jpg", "2.jpg", "10.jpg", "²3.jpg"]
    assert [path.name for path in image_paths(images)] == names
    assert [path.name for path in image_paths(f"{images}/*")] == names
    assert image_paths(images / "1*.jpg") == [images / "1.jpg", images / "10.jpg"]
    assert image_paths(images / "notes.txt") == [images / "notes.txt"]  # named, so it is read
    assert image_paths(images / "*.txt") == [images / "notes.txt"]
    (images / "a[1].jpg").touch()
    assert image_paths(images / "a[1].jpg") == [images / "a[1].jpg"]
    monkeypatch.chdir(here)
    assert [str(path) for path in image_paths("images/2.*")] == ["images/2.jpg"]
    monkeypatch.chdir(images)
    assert [str(path) for path in image_paths("2.*")] == ["2.jpg"]
    assert [path.name for path in image_paths(".")] == [*names[:3], "a[1].jpg", "²3.jpg"]
    (here / "empty").mkdir()
    for source, problem in [
        (here / "empty", "a directory without files"),
        (here / "nowhere", "which does not exist"),
        (here / "nowhere" / "*.jpg", "a glob that matches no files"),
    ]:
        with pytest.raises(FileNotFoundError, match=f"{source.name}', {problem}".replace("*", ".")):
            image_paths(source)


def test_label_map_maps_all_values_at_once(tmp_path):
    write(tmp_path / "i" / "0.jpg", size=(40, 32))
    labels = np.repeat([0, 1, 2, 255], 10)[None].repeat(32, 0).astype("uint8")
    (tmp_path / "m").mkdir()
    Image.fromarray(labels).save(tmp_path / "m" / "0.png")
    shifted = folder(tmp_path / "i", tmp_path / "m", label_map={0: 255, 1: 0, 2: 1})[0][1]
    assert shifted[0, ::10].tolist() == [255, 0, 1, 255] and shifted.dtype == "uint8"
    Image.fromarray(labels.astype("uint16") * 100).save(tmp_path / "m" / "0.png")
    mapped = folder(tmp_path / "i", tmp_path / "m", label_map={200: 7, 25500: 255})[0][1]
    assert mapped[0, ::10].tolist() == [0, 100, 7, 255]
    Image.fromarray(labels.astype("int32") - 1).save(tmp_path / "m" / "0.tif")
    (tmp_path / "m" / "0.png").unlink()
    mapped = folder(tmp_path / "i", tmp_path / "m", label_map={-1: 255, 254: 2})[0][1]
    assert mapped[0, ::10].tolist() == [255, 0, 1, 2]
    with pytest.raises(ValueError, match="label_map.*-1"):
        folder(tmp_path / "i", tmp_path / "m", label_map={255: -1})


def test_colours_of_the_palette_and_the_label_map_are_read(tmp_path):
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
    for colours in ({"palette": [(0.5, 0, 0)]}, {"palette": palette, "label_map": {(0, 0, 0.5): 255}}):
        with pytest.raises(ValueError, match=r"`palette`.*scaled to \[0, 1\]"):
            folder(tmp_path / "i", tmp_path / "m", **colours)


def test_an_empty_folder_and_a_glob_without_a_match_are_errors(here):
    (here / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match="`images`.*empty', a directory without files ending in"
    ):
        folder(here / "empty", here / "masks")
    with pytest.raises(FileNotFoundError, match="`masks`.*tiff', a glob that matches no files"):
        folder(here / "images", here / "masks" / "*.tiff")
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        folder(here / "nowhere", here / "masks")


def test_images_without_a_mask_and_masks_without_an_image_are_named(here):
    write(here / "masks" / "11.png")
    with pytest.raises(ValueError, match="1 of 4 masks without an image.*11.png"):
        folder(here / "images", here / "masks")
    for i in range(11, 17):
        write(here / "images" / f"{i}.jpg")
    with pytest.raises(ValueError, match="5 of 9 images without a mask.*12.jpg.*14.jpg and 2 more"):
        folder(here / "images", here / "masks")


def test_two_files_with_the_same_name_are_errors(here):
    write(here / "images" / "2.png")
    with pytest.raises(ValueError, match=r"names of images must be unique.*'2' twice.*2.jpg.*2.png"):
        folder(here / "images", here / "masks")


def test_image_and_mask_of_different_size_are_errors(here):
    write(here / "masks" / "2.png", size=(32, 48))
    pairs = folder(here / "images", here / "masks")
    with pytest.raises(ValueError, match=r"\(32, 48\) and \(48, 32\).*2.png.*2.jpg"):
        pairs[1]


@pytest.mark.parametrize(
    "image, mask, images, masks, fitting",
    [
        ("i/{}.jpg", "m/{}_mask.png", "i", "m", ("i/*.jpg", "m/*_mask.png")),
        ("i/{}.jpg", "m/{}_mask.png", "i/*.jpg", "m/*.png", ("i/*.jpg", "m/*_mask.png")),
        ("i/{}.jpg", "m/seg_{}.png", "i", "m", ("i/*.jpg", "m/seg_*.png")),
        ("i/{}_rgb.jpg", "m/{}.png", "i", "m", ("i/*_rgb.jpg", "m/*.png")),
        ("i/{}_rgb.jpg", "m/{}_mask.png", "i", "m", ("i/*_rgb.jpg", "m/*_mask.png")),
        ("x/{}.jpg", "x/{}_mask.png", "x", "x", ("x/*.jpg", "x/*_mask.png")),
    ],
)
def test_names_with_an_affix_are_told_the_globs_that_fit(
    tmp_path, monkeypatch, image, mask, images, masks, fitting
):
    monkeypatch.chdir(tmp_path)
    for i in (*range(1, 31), 100):
        write(tmp_path / image.format(i))
        write(tmp_path / mask.format(i), i)
    with pytest.raises(ValueError) as error:
        folder(images, masks)
    assert f"pass `images={fitting[0]!r}`, `masks={fitting[1]!r}`" in str(error.value)
    assert order(folder(*fitting)) == [*range(1, 31), 100]


def test_no_file_is_both_image_and_mask(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png")
        write(tmp_path / f"{i}_mask.png")
    with pytest.raises(ValueError, match="6 such files in .*Put the masks into a directory of their"):
        folder(tmp_path, tmp_path)


def test_swapped_images_and_masks_are_recognized(here):
    photo = np.random.default_rng(0).integers(0, 256, (32, 48, 3), "uint8")
    for path in (here / "images").iterdir():
        Image.fromarray(photo).save(path, quality=95)
    for palette in (None, [(0, 0, 0), (255, 0, 0)]):
        pairs = folder(here / "masks", here / "images", palette=palette)
        with pytest.raises(ValueError, match="the mask '.*1.jpg', with .* Swap `images` and `masks`"):
            pairs[0]
    # Masks with colours alone do not mean that.
    write(here / "masks" / "1.png", (9, 0, 0))
    with pytest.raises(ValueError, match="Pass `palette=`"):
        folder(here / "images", here / "masks")[0]


def test_a_directory_with_images_one_level_below_is_told_where(here):
    with pytest.raises(FileNotFoundError, match="so on. There are some in '.*images' or '.*masks'."):
        folder(here, here / "masks")
