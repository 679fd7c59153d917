"""Every kind of data can be named on the command line. The trees are drawn in their real layouts."""

import json

import numpy as np
import pytest
from PIL import Image

from keras_encnet import data
from keras_encnet.cli import main
from keras_encnet.cli_arguments import make_parser
from keras_encnet.command_data import all_pairs, evaluation_pairs, training_pairs

SIZE = (48, 32)  # width, height


def draw(directory, names, *, value=None):
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        if value is None:
            Image.new("RGB", SIZE, (90, 120, 150)).save(directory / name)
        else:
            mask = np.full(SIZE[::-1], value, "uint8")
            mask[:16] = value + 1
            Image.fromarray(mask).save(directory / name)


@pytest.fixture
def camvid(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        names = [f"{i}.png" for i in range(count)]
        draw(tmp_path / "camvid" / split, names)
        draw(tmp_path / "camvid" / f"{split}annot", names, value=2)
    return tmp_path / "camvid"


@pytest.fixture
def roboflow(tmp_path):
    for split, count in (("train", 3), ("valid", 2)):
        directory = tmp_path / "roboflow" / split
        draw(directory, [f"{i}.jpg" for i in range(count)])
        draw(directory, [f"{i}_mask.png" for i in range(count)], value=0)
        (directory / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n")
    return tmp_path / "roboflow"


@pytest.fixture
def coco(tmp_path):
    draw(tmp_path / "photos", [f"{i}.jpg" for i in range(10)])
    for name, numbers in (("train", range(10)), ("val", range(2))):
        square = {"category_id": 5, "segmentation": [[0, 0, 16, 0, 16, 16, 0, 16]]}
        content = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 48, "height": 32} for i in numbers],
            "categories": [{"id": 5, "name": "cat"}],
            "annotations": [{"id": i, "image_id": i, **square} for i in numbers],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def parsed(command):
    """The arguments, after their checks."""
    arguments = make_parser().parse_args(command.split())
    arguments.check(arguments, arguments.error)
    return arguments


def lengths(named):
    return {name: len(pairs) for name, pairs in named.items()}


@pytest.mark.parametrize("source", ["--dataset camvid --root", "--camvid"])
def test_a_data_set_has_its_splits(camvid, source):
    training, validation = training_pairs(parsed(f"train {source} {camvid} --out x"))
    assert (len(training), len(validation), training.labels[2]) == (3, 2, "pole")
    assert len(evaluation_pairs(parsed(f"evaluate {source} {camvid} --model m"))) == 2
    chosen = evaluation_pairs(parsed(f"evaluate {source} {camvid} --split train --model m"))
    assert len(chosen) == 3
    assert lengths(all_pairs(parsed(f"check-data {source} {camvid}"))) == {"train": 3, "val": 2}
    training, validation = training_pairs(
        parsed(f"train {source} {camvid} --split val --val-split train --out x")
    )
    assert (len(training), len(validation)) == (2, 3)


def test_an_export_has_the_splits_that_are_there(roboflow):
    training, validation = training_pairs(parsed(f"train --dataset voc --root {roboflow} --out x"))
    assert (len(training), len(validation)) == (3, 2)
    assert training.labels == ("background", "cat")
    assert len(evaluation_pairs(parsed(f"evaluate --dataset voc --root {roboflow} --model m"))) == 2
    command = f"check-data --dataset voc --root {roboflow}"
    assert lengths(all_pairs(parsed(command))) == {"train": 3, "valid": 2}
    # One directory of it has no splits.
    command = f"train --dataset voc --root {roboflow}/valid --out x"
    training, validation = training_pairs(parsed(command))
    assert len(training) == 2 and validation is None


def test_a_list_that_combines_others_is_no_split_to_check(tmp_path):
    names = [f"{i}.png" for i in range(3)]
    draw(tmp_path / "JPEGImages", names)
    draw(tmp_path / "SegmentationClass", names, value=0)
    (tmp_path / "class_names.txt").write_text("background\ncat\n")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, numbers in (("train", "0\n1\n"), ("val", "2\n"), ("trainval", "0\n1\n2\n")):
        (lists / f"{name}.txt").write_text(numbers)
    command = f"check-data --dataset voc --root {tmp_path}"
    assert lengths(all_pairs(parsed(command))) == {"train": 2, "val": 1}
    assert lengths(all_pairs(parsed(f"{command} --split trainval"))) == {"trainval": 3}


def test_all_splits_with_masks_are_checked(camvid, tmp_path):
    draw(camvid / "test", ["0.png"])
    draw(camvid / "testannot", ["0.png"], value=2)
    command = f"check-data --camvid {camvid}"
    assert lengths(all_pairs(parsed(command))) == {"train": 3, "val": 2, "test": 1}
    root = tmp_path / "cityscapes"
    for split in ("train", "val", "test"):
        draw(root / "leftImg8bit" / split / "ulm", ["ulm_000000_000019_leftImg8bit.png"])
    for split in ("train", "val"):
        draw(root / "gtFine" / split / "ulm", ["ulm_000000_000019_gtFine_labelIds.png"], value=7)
    command = f"check-data --dataset cityscapes --root {root}"
    assert lengths(all_pairs(parsed(command))) == {"train": 1, "val": 1}
    ade = tmp_path / "ade"
    for split, count in (("training", 2), ("validation", 1)):
        names = [f"ADE_{i}" for i in range(count)]
        draw(ade / "images" / split, [f"{name}.jpg" for name in names])
        draw(ade / "annotations" / split, [f"{name}.png" for name in names], value=1)
    command = f"--dataset ade20k --root {ade}"
    pairs = training_pairs(parsed(f"train {command} --out x"))
    assert [len(part) for part in pairs] == [2, 1]
    assert len(evaluation_pairs(parsed(f"evaluate {command} --model m"))) == 1


def test_a_data_set_without_validation_images_trains_without(camvid):
    for directory in ("val", "valannot"):
        (camvid / directory).rename(camvid / f"no {directory}")
    with pytest.warns(UserWarning, match="Training without validation. .*CamVid with 'val' in it"):
        training, validation = training_pairs(parsed(f"train --camvid {camvid} --out x"))
    assert len(training) == 3 and validation is None
    with pytest.raises(FileNotFoundError, match="'val'"):
        training_pairs(parsed(f"train --camvid {camvid} --val-split val --out x"))


def test_errors_about_validation_data_keep_what_they_are(coco, monkeypatch):
    command = (
        f"train --images {coco}/photos --annotations {coco}/train.json --val-images {coco}/photos "
        f"--val-annotations {coco}/val.json --out x"
    )
    coco_of = data.coco

    def failing(error):
        def fake(*files):
            if files[0].endswith("val.json"):
                raise error
            return coco_of(*files)

        monkeypatch.setattr(data, "coco", fake)
        with pytest.raises((ValueError, OSError)) as raised:
            training_pairs(parsed(command))
        return raised.value

    for error in (
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        PermissionError(13, "Permission denied", "val.json"),
    ):
        assert failing(error) is error
    for kind in (ValueError, FileNotFoundError):
        renamed = failing(kind("`images` must be there."))
        assert type(renamed) is kind and str(renamed) == "`val_images` must be there."


def test_training_leaves_the_test_split_alone(roboflow):
    (roboflow / "valid").rename(roboflow / "test")
    training, validation = training_pairs(parsed(f"train --dataset voc --root {roboflow} --out x"))
    assert len(training) == 3 and validation is None
    assert len(evaluation_pairs(parsed(f"evaluate --dataset voc --root {roboflow} --model m"))) == 2


def test_annotation_files(coco):
    command = f"train --images {coco}/photos --annotations {coco}/train.json --out x"
    training, validation = training_pairs(parsed(command))
    assert (len(training), training.labels, validation) == (10, ("background", "cat"), None)
    assert (training[0][1][:16, :16] == 1).all() and training[0][1].sum() == 256
    more = f"--val-images {coco}/photos --val-annotations {coco}/val.json"
    assert len(training_pairs(parsed(f"{command} {more}"))[1]) == 2
    parts = [training_pairs(parsed(f"{command} --val-share 0.2")) for _ in range(2)]
    assert [len(part) for part in parts[0]] == [8, 2]
    names = [[part.name(i) for i in range(len(part))] for part in parts[0]]
    assert not set(names[0]) & set(names[1])
    assert names == [[part.name(i) for i in range(len(part))] for part in parts[1]]
    rows = "".join(f"{i}.jpg,1 16\n" for i in range(4))
    (coco / "codes.csv").write_text(f"ImageId,EncodedPixels\n{rows}")
    command = f"train --images {coco}/photos --annotations {coco}/codes.csv --labels dent --out x"
    training, _ = training_pairs(parsed(command))
    assert (len(training), training.labels) == (4, ("background", "dent"))


def test_other_classes_for_validation_are_an_error(coco):
    text = (coco / "val.json").read_text().replace('"cat"', '"dog"')
    (coco / "val.json").write_text(text)
    command = (
        f"train --images {coco}/photos --annotations {coco}/train.json --val-images {coco}/photos "
        f"--val-annotations {coco}/val.json --out x"
    )
    message = "label 1 is 'cat' in the training data and 'dog' in the val.*same 'categories', with the"
    with pytest.raises(ValueError, match=message):
        training_pairs(parsed(command))


@pytest.mark.parametrize(
    "command,message",
    [
        ("check-data --dataset nonsense", "--dataset: must be one of ade20k, cityscapes, voc2012"),
        ("check-data --dataset coco --root .", "is not for coco. Use --images DIR --annotations FILE"),
        ("check-data --dataset ADE20K", "--dataset ade20k needs --root"),
        ("check-data --dataset ade20k --root nowhere", "--root must be a directory. Received: 'no"),
        ("check-data --dataset voc --root . --images i", "--dataset already says what --images would"),
        ("check-data --dataset voc --root . --labels a", "--dataset already says what --labels would"),
        ("check-data --camvid . --root .", "--camvid already says what --root would"),
        ("check-data --images i --masks m --root .", "--root is only of use with --dataset"),
        ("check-data --images i --masks m --annotations a.json", "--annotations already says what --m"),
        ("train --images i --annotations a --val-share 2 --out x", "--val-share: must be between 0"),
        (
            "train --images i --annotations a --val-images v --val-masks m --val-share 0.1 --out x",
            "--val-share already says what --val-images and --val-masks would",
        ),
        ("evaluate --camvid . --model m --prediction-format rle", "is only of use with --save-p"),
    ],
)
def test_wrong_arguments_about_data(command, message, capsys):
    with pytest.raises(SystemExit) as exit:
        main(command.split())
    assert exit.value.code == 2 and message in capsys.readouterr().err


def test_names_of_classes_are_those_of_the_json(coco):
    command = f"train --images {coco}/photos --annotations {coco}/train.json --labels a --out x"
    with pytest.raises(ValueError, match="--labels must be left out"):
        training_pairs(parsed(command))


def test_classes_of_a_table_have_names(coco, capsys):
    (coco / "codes.csv").write_text("ImageId,ClassId,EncodedPixels\n0.jpg,2,1 16\n1.jpg,1,1 1\n")
    command = f"--images {coco}/photos --annotations {coco}/codes.csv --labels"
    pairs = evaluation_pairs(parsed(f"evaluate {command} 1:scratch,2:dent --model m"))
    assert pairs.labels == ("background", "scratch", "dent") and pairs.mask(0)[0, 0] == 2
    # The remedy of the error is what works.
    assert main(f"check-data {command} scratch,dent".split()) == 1
    assert "Name each class of the file: --labels 1:scratch,2:dent." in capsys.readouterr().err


def test_masks_of_colours(tmp_path):
    draw(tmp_path / "images", ["0.png"])
    (tmp_path / "masks").mkdir()
    mask = Image.new("RGB", SIZE, (128, 64, 128))
    mask.paste((0, 0, 0), (0, 0, 48, 8))
    mask.paste((255, 0, 0), (0, 8, 48, 16))
    mask.save(tmp_path / "masks" / "0.png")
    command = (
        f"evaluate --images {tmp_path}/images --masks {tmp_path}/masks --labels road,car "
        "--palette 128,64,128 #ff0000 --label-map 0,0,0:255 --model m"
    )
    pairs = evaluation_pairs(parsed(command))
    assert pairs.mask(0)[::8, 0].tolist() == [255, 1, 0, 0]
    assert pairs.palette.tolist() == [[128, 64, 128], [255, 0, 0]]


def test_features_of_tensorflow_datasets_are_named(monkeypatch):
    given = []
    monkeypatch.setattr(data, "tfds", lambda *names, **options: given.append((names, options)))
    all_pairs_of = "check-data --dataset tfds/pets:1.0.0 --root d --labels a,b --label-map 1:0 2:1"
    all_pairs(parsed(f"{all_pairs_of} --image-feature photo --mask-feature classes"))
    assert given == [
        (
            ("pets:1.0.0", "train"),
            {
                "data_dir": "d",
                "image": "photo",
                "mask": "classes",
                "labels": ["a", "b"],
                "label_map": {1: 0, 2: 1},
            },
        )
    ]

    def failing(*_, **__):
        raise ValueError("`mask` must be a feature. `data_dir`")

    monkeypatch.setattr(data, "tfds", failing)
    with pytest.raises(ValueError, match="`mask_feature` must be a feature. `root`"):
        all_pairs(parsed("check-data --dataset tfds/pets"))


def test_a_directory_of_annotations_is_told_its_files(coco, capsys):
    command = f"check-data --images {coco}/photos --annotations {coco}"
    assert main(command.split()) == 1
    error = capsys.readouterr().err
    assert f"{coco} is a directory" in error.replace("'", "")
    assert f"Give the path of the .json or .csv file: {coco}/train.json, {coco}/val.json" in error
    assert main(f"check-data --images {coco} --annotations {coco}/train.json".split()) == 1
    assert f"They are in '{coco}/photos': give it as --images" in capsys.readouterr().err


def test_masks_with_an_affix_are_told_the_options(tmp_path, capsys):
    draw(tmp_path / "i", ["0.jpg", "1.jpg"])
    draw(tmp_path / "m", ["0_mask.png", "1_mask.png"], value=0)
    command = f"check-data --images {tmp_path}/i --masks {tmp_path}/m"
    assert main(command.split()) == 1
    remedy = f"pass --images '{tmp_path}/i/*.jpg', --masks '{tmp_path}/m/*_mask.png'."
    assert remedy in capsys.readouterr().err


def test_swapped_masks_are_told_the_options(tmp_path, capsys):
    photo = np.random.default_rng(0).integers(0, 256, (32, 48, 3), "uint8")
    draw(tmp_path / "m", ["0.png"], value=0)
    (tmp_path / "i").mkdir()
    Image.fromarray(photo).save(tmp_path / "i" / "0.jpg", quality=95)
    assert main(f"check-data --images {tmp_path}/m --masks {tmp_path}/i --labels a,b".split()) == 1
    assert "Swap --images and --masks." in capsys.readouterr().out


def test_a_share_that_is_too_small_is_told_the_least_one(coco):
    command = f"train --images {coco}/photos --annotations {coco}/train.json --val-share 0.01 --out x"
    with pytest.raises(ValueError, match=r"\(0.99, 0.01\) of 10 pairs. Give each part 0.1 or more"):
        training_pairs(parsed(command))


def test_a_recipe_brings_its_data_set(camvid):
    command = f"train --recipe ade20k_r50 --root {camvid} --out x"
    assert parsed(command).dataset is None
    chosen = parsed(f"{command} --dataset camvid")
    assert len(training_pairs(chosen)[0]) == 3


def test_a_split_that_is_not_there_is_left_out_of_a_check(camvid):
    for directory in ("val", "valannot"):
        for file in (camvid / directory).iterdir():
            file.unlink()
        (camvid / directory).rmdir()
    assert lengths(all_pairs(parsed(f"check-data --camvid {camvid}"))) == {"train": 3}
    with pytest.raises(FileNotFoundError, match="'val"):
        all_pairs(parsed(f"check-data --camvid {camvid} --split val"))


def test_check_data_writes_text_json_and_picture(camvid, tmp_path, capsys):
    command = f"check-data --camvid {camvid} --json {tmp_path}/s.json --picture {tmp_path}/s.png"
    # The images are all alike, so that one is in both splits.
    assert main(command.split()) == 1
    text = capsys.readouterr().out
    assert "pole" in text and "Problems:" in text
    assert (
        json.loads((tmp_path / "s.json").read_text())
        == data.check(
            {"train": data.camvid(camvid, "train"), "val": data.camvid(camvid, "val")}
        ).to_json()
    )
    assert Image.open(tmp_path / "s.png").width > 300
    Image.new("RGB", SIZE, "red").save(camvid / "train" / "0.png")
    assert main(f"check-data --camvid {camvid} --split train".split()) in (0, 1)


def test_folders_of_labelme_are_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        names = [f"{i}.jpg" for i in range(count)]
        draw(tmp_path / split, names)
        for name in names:
            box = {"label": "cat", "shape_type": "rectangle", "points": [[4, 2], [8, 6]]}
            content = {"shapes": [box], "imagePath": name, "imageData": None}
            (tmp_path / split / name).with_suffix(".json").write_text(json.dumps(content))
    training, validation = training_pairs(parsed(f"train --dataset labelme --root {tmp_path} --out x"))
    assert (len(training), len(validation)) == (3, 2)
    command = f"train --dataset labelme --root {tmp_path}/train --val-split val --out x"
    with pytest.raises(FileNotFoundError, match="train/val"):
        training_pairs(parsed(command))


def test_a_split_without_masks_is_left_out_with_a_warning(camvid):
    for file in (camvid / "valannot").iterdir():
        file.unlink()
    (camvid / "valannot").rmdir()
    with pytest.warns(UserWarning, match="The split 'val' is left out. .*valannot"):
        assert lengths(all_pairs(parsed(f"check-data --camvid {camvid} "))) == {"train": 3}


def test_a_root_one_level_too_high_is_told_the_root(camvid):
    with pytest.raises(FileNotFoundError, match=f"Pass '{camvid}', which is the root"):
        all_pairs(parsed(f"check-data --camvid {camvid.parent}"))
