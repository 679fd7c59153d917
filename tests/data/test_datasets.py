"""The table of public data sets, and the functions that open them, on trees in their real layouts."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data.checks import check_masks
from keras_encnet.data.conventions import IGNORE_INDEX
from keras_encnet.data.dataset_table import list_datasets
from keras_encnet.data.datasets import (
    DATASETS,
    ROWS,
    ade20k,
    camvid,
    cityscapes,
    open_dataset,
    pascal_context,
    splits_with_masks,
    voc2012,
)

CAMVID = pathlib.Path(__file__).parents[3] / "shared" / "camvid"


def write(path, mode, value, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, (48, 32), value)
    if palette:
        image.putpalette(palette)
    image.save(path)


def write_stripes(path, values, palette=None):
    """A mask with one column of 48 for each value, from the left; the last one fills the rest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.array([*values, *[values[-1]] * (48 - len(values))], "uint8")
    mask = Image.fromarray(np.tile(row, (32, 1)))
    if palette:
        mask.putpalette(palette)
    mask.save(path)


def litter(*directories):
    """What file managers and archives leave behind."""
    for directory in directories:
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._ADE_train_00000001.jpg", "._x.png"):
            (directory / name).write_bytes(b"\0\5\x16\7")
        (directory / "__MACOSX").mkdir(exist_ok=True)
        write(directory / "__MACOSX" / "left_leftImg8bit.png", "L", 0)
        write(directory / "__MACOSX" / "left_gtFine_labelIds.png", "L", 0)


@pytest.fixture
def ade(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for split, short, count in (("training", "train", 3), ("validation", "val", 1)):
        for i in range(1, count + 1):
            name = f"ADE_{short}_{i:08d}"
            write(root / "images" / split / f"{name}.jpg", "RGB", (i, i, i))
            write_stripes(root / "annotations" / split / f"{name}.png", [0, 1, 2, 150])
        litter(root / "images" / split, root / "annotations" / split)
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    return root


@pytest.fixture
def streets(tmp_path):
    root = tmp_path / "cityscapes"
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "munster"), ("test", "bonn")):
        name = f"{city}_000000_000019"
        images, masks = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
        write(images / f"{name}_leftImg8bit.png", "RGB", (1, 2, 3))
        write_stripes(masks / f"{name}_gtFine_labelIds.png", [*range(34)])
        write(masks / f"{name}_gtFine_color.png", "RGBA", (128, 64, 128, 255))
        Image.fromarray(np.full((32, 48), 24001, "uint16")).save(
            masks / f"{name}_gtFine_instanceIds.png"
        )
        (masks / f"{name}_gtFine_polygons.json").write_text("{}")
        litter(images, masks, images.parent, masks.parent)
    return root


VOC_COLOURS = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 756 + [224, 224, 192]  # 255 is the border


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for names, split in (
        (["2007_000032"], "train"),
        (["2007_000033"], "val"),
        (["2007_000032", "2007_000033"], "trainval"),
        (["2008_000001"], "test"),
    ):
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    for i, name in enumerate(["2007_000032", "2007_000033", "2008_000001", "2011_003276"]):
        write(root / "JPEGImages" / f"{name}.jpg", "RGB", (i, i, i))
    for i, name in enumerate(["2007_000032", "2007_000033"], 1):
        write_stripes(root / "SegmentationClass" / f"{name}.png", [0, i, 20, 255], VOC_COLOURS)
        write(root / "SegmentationObject" / f"{name}.png", "L", 1)
    litter(root / "JPEGImages", root / "SegmentationClass")
    return root


@pytest.fixture
def context(tmp_path):
    root = tmp_path / "VOC2010"
    for split, name in (("train", "2008_000002"), ("val", "2008_000003")):
        lists = root / "ImageSets" / "SegmentationContext"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text(f"{name}\n")
        write(root / "JPEGImages" / f"{name}.jpg", "RGB", (1, 2, 3))
        write_stripes(root / "SegmentationClassContext" / f"{name}.png", [0, 1, 59])
    return root


@pytest.fixture
def directory(tmp_path):
    """CamVid with one pair in each of two splits: `val` is void, `test` is a car."""
    for split, value in (("val", 11), ("test", 8)):
        write(tmp_path / split / "a.png", "RGB", (1, 2, 3))
        write(tmp_path / f"{split}annot" / "a.png", "L", value)
    return tmp_path


def names(pairs):
    return [pairs.name(i) for i in range(len(pairs))]


@pytest.mark.parametrize(
    "name, num_classes",
    [
        ("ADE20K", 150),
        ("Cityscapes", 19),
        ("PASCAL VOC 2012", 21),
        ("PASCAL-Context", 59),
        ("CamVid", 11),
    ],
)
def test_a_row_has_a_name_and_a_colour_for_each_class(name, num_classes):
    dataset = list_datasets()[name]
    assert dataset.name == name
    assert len(set(dataset.labels)) == len(dataset.labels) == num_classes
    assert dataset.palette.shape == (num_classes, 3) and dataset.palette.dtype == "uint8"
    assert len(set(dataset.values)) == num_classes


def test_label_maps_lead_to_classes_or_are_ignored():
    for dataset in list_datasets().values():
        labels = {*range(len(dataset.labels)), IGNORE_INDEX}
        for value, label in dataset.label_map.items():
            assert isinstance(value, int) and label in labels, dataset.name


def test_values_lead_back_from_labels_to_mask_values():
    for dataset in list_datasets().values():
        back = [dataset.label_map.get(value, value) for value in dataset.values]
        assert back == list(range(len(dataset.labels))), dataset.name
    cityscapes_row = list_datasets()["Cityscapes"]
    # From cityscapesscripts/helpers/labels.py.
    assert cityscapes_row.values[cityscapes_row.labels.index("rider")] == 25
    assert list_datasets()["ADE20K"].values == tuple(range(1, 151))


def test_a_row_with_splits_has_images_and_masks():
    for dataset in list_datasets().values():
        assert bool(dataset.splits) == bool(dataset.images) == bool(dataset.masks), dataset.name
        assert set(dataset.without_masks) <= set(dataset.splits), dataset.name
        for path in [dataset.names] if dataset.names else [dataset.images, *dataset.masks]:
            assert "{split}" in path, dataset.name


def test_ade20k(ade):
    pairs = ade20k(ade, "training")
    assert names(pairs) == [f"ADE_train_{i:08d}" for i in (1, 2, 3)]
    assert pairs.labels[:2] == ("wall", "building") and pairs.labels[149] == "flag"
    assert pairs.palette[149].tolist() == [92, 0, 255]
    image, mask = pairs[1]
    assert mask[0, :4].tolist() == [255, 0, 1, 149] and mask.dtype == "uint8"
    assert np.abs(image.astype(int) - 2).max() <= 1 and np.array_equal(pairs.image(1), image)
    assert names(ade20k(str(ade), "val")) == ["ADE_val_00000001"]
    assert names(ade20k(ade, "train")) == names(pairs)


def test_cityscapes(streets):
    pairs = cityscapes(streets, "train")
    assert names(pairs) == [f"{c}/{c}_000000_000019_leftImg8bit" for c in ("aachen", "bochum")]
    ids = pairs[0][1][0, :34].tolist()
    # The label ids 0 to 33 of cityscapesscripts/helpers/labels.py.
    assert ids[:14] == [255] * 7 + [0, 1, 255, 255, 2, 3, 4]
    assert ids[14:] == [255] * 3 + [5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18]
    assert pairs.labels[12] == "rider" and pairs.palette[12].tolist() == [255, 0, 0]
    assert "munster" in cityscapes(streets, "validation").where(0)


def test_cityscapes_reads_train_ids_where_there_are_no_label_ids(streets):
    for ids in (streets / "gtFine" / "val").rglob("*_labelIds.png"):
        write_stripes(ids.with_name(ids.name.replace("_labelIds", "_labelTrainIds")), [0, 18, 255])
    assert cityscapes(streets, "val")[0][1][0, 7] == 0  # both exist: label ids
    for ids in (streets / "gtFine" / "val").rglob("*_labelIds.png"):
        ids.unlink()
    assert cityscapes(streets, "val")[0][1][0, :3].tolist() == [0, 18, 255]


def test_test_splits_without_published_masks_are_images_alone(streets, voc):
    for pairs, name in (
        (cityscapes(streets, "test"), "bonn/bonn_000000_000019_leftImg8bit"),
        (voc2012(voc, "test"), "2008_000001"),
    ):
        assert pairs.has_masks is False and names(pairs) == [name]
        image, mask = pairs[0]
        assert image.shape == (32, 48, 3) and mask is None and pairs.mask(0) is None
        assert pairs.files(0)[1] is None and pairs.where(0) == pairs.files(0)[0]
    assert cityscapes(streets, "val").has_masks and voc2012(voc, "val").has_masks


def test_voc2012_reads_palette_files_as_indices(voc):
    pairs = voc2012(voc, "train")
    assert Image.open(voc / "SegmentationClass" / "2007_000032.png").mode == "P"
    assert names(pairs) == ["2007_000032"]
    assert pairs[0][1][0, :4].tolist() == [0, 1, 20, 255]
    assert pairs.labels[20] == "tvmonitor" and pairs.palette[20].tolist() == [0, 64, 128]
    assert names(voc2012(voc, "trainval")) == ["2007_000032", "2007_000033"]


@pytest.mark.parametrize("line", ["{}", "/JPEGImages/{}.jpg /SegmentationClassAug/{}.png"])
def test_voc2012_has_the_augmented_set(voc, line):
    lists = voc / "ImageSets" / "Segmentation"
    augmented = ["2007_000032", "2011_003276"]
    with pytest.raises(FileNotFoundError, match="'ImageSets/Segmentation/trainaug.txt' in it"):
        voc2012(voc, "trainaug")
    (lists / "trainaug.txt").write_text("".join(line.format(n, n) + "\n" for n in augmented))
    with pytest.raises(ValueError, match="1 of 2 names without a file, 2011_003276"):
        voc2012(voc, "trainaug")
    for name in augmented:
        write(voc / "SegmentationClassAug" / f"{name}.png", "L", 15)
    pairs = voc2012(voc, "trainaug")
    assert names(pairs) == augmented
    # VOC's own mask has the borders, which that of the augmented set lacks.
    assert pairs.mask(0)[0, :4].tolist() == [0, 1, 20, 255]
    assert set(pairs.mask(1).ravel()) == {15}


def test_pascal_context_has_59_or_60_classes(context):
    pairs = pascal_context(context, "val")
    assert len(pairs.labels) == 59 and list(pairs.labels) == sorted(pairs.labels)
    assert pairs[0][1][0, :3].tolist() == [255, 0, 58]
    pairs = pascal_context(context, "val", background=True)
    assert pairs.labels[:2] == ("background", "aeroplane") and len(pairs.labels) == 60
    assert pairs[0][1][0, :3].tolist() == [0, 1, 59]
    # From mmsegmentation's PascalContextDataset.
    assert pairs.palette[[0, 1, 59]].tolist() == [[120, 120, 120], [180, 120, 120], [31, 0, 255]]


def test_camvid_has_its_classes_and_ignores_void(directory):
    pairs = camvid(directory, "val")
    assert len(pairs.labels) == len(pairs.palette) == 11
    assert pairs.labels[8] == "car" and pairs.palette[8].tolist() == [64, 0, 128]
    assert set(pairs[0][1].ravel()) == {255}
    with pytest.raises(ValueError, match="'train', 'val', 'test'.*'trainval'"):
        camvid(directory, "trainval")


def test_camvid_keeps_its_splits_apart(directory):
    image, mask = camvid(str(directory), "test")[0]
    assert np.unique(mask).tolist() == [8] and image[0, 0].tolist() == [1, 2, 3]


def test_a_missing_part_is_named(directory, ade):
    with pytest.raises(FileNotFoundError, match="with 'train' in it.*that of SegNet's.*trainannot/"):
        camvid(directory)
    (directory / "testannot" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="`masks`.*testannot/', a directory without files"):
        camvid(directory, "test")
    (directory / "testannot").rmdir()
    with pytest.raises(FileNotFoundError, match="with 'testannot' in it"):
        camvid(directory, "test")
    with pytest.raises(FileNotFoundError, match="nowhere', which is not a directory"):
        camvid(directory / "nowhere")
    (ade / "annotations" / "validation").rename(ade / "validation")
    with pytest.raises(FileNotFoundError) as error:
        ade20k(ade, "val")
    assert str(error.value) == (
        "`root` must be the directory of ADE20K with 'annotations/validation' in it. Received: "
        f"{str(ade)!r}, which does not have it. The layout expected, that of ADEChallengeData2016, is: "
        "images/validation/*.jpg, annotations/validation/*.png."
    )


@pytest.mark.parametrize("wrong", ["", "VOCdevkit", "VOCdevkit/VOC2012/ImageSets"])
def test_a_root_of_another_level_is_recognized(voc, tmp_path, wrong):
    with pytest.raises(FileNotFoundError, match=f"Pass '{voc}', which is the root"):
        voc2012(tmp_path / wrong, "val")


def test_a_root_below_is_not_the_remedy_if_a_part_is_missing_there(streets):
    (streets / "gtFine").rename(streets.parent / "gtFine")
    with pytest.raises(FileNotFoundError, match="'gtFine/val' in it.*The layout expected"):
        cityscapes(streets, "val")


def test_listed_images_without_a_file_are_named(voc):
    (voc / "JPEGImages" / "2007_000033.jpg").unlink()
    with pytest.raises(ValueError, match="JPEGImages.*an image.*val.txt.*1 of 1 names.*2007_000033"):
        voc2012(voc, "val")


def test_open_dataset_takes_the_name_of_the_function(ade, context):
    assert names(open_dataset("ade20k", ade, "val")) == ["ADE_val_00000001"]
    assert len(open_dataset("pascal_context", context).labels) == 59
    assert len(open_dataset("pascal_context_60", context, "train").labels) == 60
    with pytest.raises(ValueError, match="`name` must be one of 'ade20k', .* Received: 'ADE20K'"):
        open_dataset("ADE20K", ade)
    assert set(DATASETS) >= {"ade20k", "cityscapes", "voc2012", "pascal_context", "camvid"}


@pytest.mark.skipif(not CAMVID.exists(), reason="CamVid is not installed")
def test_the_real_camvid():
    pairs = camvid(CAMVID, "val")
    assert len(pairs) == 101 and pairs[0][0].shape == (360, 480, 3)
    check_masks(pairs[:10], 11)


def test_the_splits_with_masks_are_those_of_the_table():
    assert list(ROWS) == list(DATASETS)
    assert splits_with_masks("ade20k") == ["training", "validation"]
    assert splits_with_masks("voc2012") == ["train", "val", "trainval", "trainaug"]
