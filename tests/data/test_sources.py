"""Pairs from TensorFlow Datasets and Hugging Face's `datasets`: real builders over drawn images."""

import importlib.machinery
import io
import json
import pickle
import shutil
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

from keras_encnet.data import sources
from keras_encnet.data.encoded_pairs import EncodedPairs
from keras_encnet.data.sources import hf, tfds

COLOURS = [200, 0, 0, 0, 200, 0, 0, 0, 200] + [0] * 759


def image_of(i):
    return np.full((32, 48, 3), 10 * i + 5, "uint8")


def mask_of(*values):
    """Columns with these values, from the left; the last one fills the rest."""
    row = np.array([*values, *[values[-1]] * (48 - len(values))], "uint8")
    return np.tile(row, (32, 1))


def encoded(array, palette=None, form="PNG"):
    image, file = Image.fromarray(array), io.BytesIO()
    if palette:
        image.putpalette(palette)
    image.save(file, form)
    return file.getvalue()


def save(path, array, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(array, palette, "JPEG" if path.suffix == ".jpg" else "PNG"))


@pytest.fixture(scope="module")
def library():
    pytest.importorskip("array_record")
    library = pytest.importorskip("tensorflow_datasets")
    if not hasattr(library, "builder"):
        pytest.skip("the imports of tensorflow_datasets fail")
    return library


@pytest.fixture(scope="module")
def streets(library):
    """The class of a builder with palette masks, so that its name is known to the library."""

    class DrawnStreets(library.core.GeneratorBasedBuilder):
        VERSION = library.core.Version("1.0.0")

        def _info(self):
            features = {
                "photo": library.features.Image(),
                "classes": library.features.LabeledImage(labels=["sky", "road", "car"]),
                "depth": library.features.Image(shape=(None, None, 1)),
                "title": library.features.Text(),
            }
            return library.core.DatasetInfo(
                builder=self, features=library.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples(4), "test": self._generate_examples(1)}

        def _generate_examples(self, count):
            for i in range(count):
                yield (
                    i,
                    {
                        "photo": encoded(image_of(i)),
                        "classes": encoded(mask_of(0, 1, 2, i % 3), COLOURS),
                        "depth": b"broken" if i == 3 else encoded(mask_of(i)),
                        "title": f"street {i}",
                    },
                )

    return DrawnStreets


@pytest.fixture(scope="module")
def prepared(streets, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("streets")
    streets(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir


def indices(pairs):
    """Which examples these are: TFDS shuffles them."""
    return [int(pairs.image(i)[0, 0, 0]) // 10 for i in range(len(pairs))]


def test_any_builder_is_read_by_the_names_of_its_features(prepared):
    pairs = tfds("drawn_streets", "train", data_dir=prepared, image="photo", mask="classes")
    assert sorted(indices(pairs)) == [0, 1, 2, 3] and pairs.labels == ("sky", "road", "car")
    for at, i in enumerate(indices(pairs)):
        image, mask = pairs[at]
        # Palette files are read as indices; the broken "depth" is never decoded.
        assert np.array_equal(image, image_of(i)) and np.array_equal(mask, mask_of(0, 1, 2, i % 3))
        assert pairs.image_size(at) == (32, 48) and np.array_equal(pairs.mask(at), mask)
    assert len({pairs.name(i) for i in range(4)}) == 4
    assert pairs.where(2) == "drawn_streets, train: example 2"
    assert indices(pairs.load()) == indices(pairs)


def test_labels_and_mask_values_can_be_renamed(prepared):
    how = dict(data_dir=prepared, image="photo", mask="classes")
    pairs = tfds("drawn_streets", "test", **how, labels=["a", "b"], label_map={2: 255})
    assert pairs.labels == ("a", "b") and pairs.mask(0)[0, :3].tolist() == [0, 1, 255]


def test_parts_of_splits_are_read(prepared):
    how = dict(data_dir=prepared, image="photo", mask="classes")
    assert len(tfds("drawn_streets", "train[:50%]", **how)) == 2
    assert len(tfds("drawn_streets", "train[:1]+test", **how)) == 2
    with pytest.raises(ValueError, match="`split` must be one of 'train', 'test'.*Received: 'val'"):
        tfds("drawn_streets", "val", **how)


def test_a_feature_that_does_not_exist_is_an_error_with_those_that_do(prepared):
    with pytest.raises(
        ValueError, match="`mask` must be.*'masks'. These are: 'classes', 'depth', 'photo'"
    ):
        tfds("drawn_streets", "train", data_dir=prepared, image="photo", mask="masks")
    with pytest.raises(ValueError, match="`image` must be a feature of drawn_streets.*Received: None"):
        tfds("drawn_streets", "train", data_dir=prepared)


def test_a_broken_file_is_named(prepared):
    pairs = tfds("drawn_streets", "train", data_dir=prepared, image="photo", mask="depth")
    broken = indices(pairs).index(3)
    with pytest.raises(
        ValueError, match=f"drawn_streets, train: example {broken}: Cannot read 'depth'"
    ):
        pairs[broken]


def test_data_that_are_not_prepared_are_an_error_with_the_remedy(streets, tmp_path):
    how = dict(data_dir=tmp_path, image="photo", mask="classes")
    with pytest.raises(FileNotFoundError, match="drawn_streets must be prepared.*download=True"):
        tfds("drawn_streets", "train", **how)
    assert len(tfds("drawn_streets", "train", **how, download=True)) == 4
    assert len(tfds("drawn_streets", "train", **how)) == 4


def test_tfrecord_files_are_an_error_with_the_remedy(streets, prepared, tmp_path):
    streets(data_dir=tmp_path).download_and_prepare()
    how = dict(data_dir=tmp_path, image="photo", mask="classes")
    with pytest.raises(
        ValueError, match="as array_record files.*tfrecord files.*another `data_dir` with"
    ):
        tfds("drawn_streets", "train", **how)
    # As `tfds convert_format`, the other remedy, leaves it: both formats in one directory.
    version = tmp_path / "drawn_streets" / "1.0.0"
    for shard in (prepared / "drawn_streets" / "1.0.0").glob("*.array_record*"):
        shutil.copy(shard, version)
    info = json.loads((version / "dataset_info.json").read_text())
    info["alternativeFileFormats"] = ["array_record"]
    (version / "dataset_info.json").write_text(json.dumps(info))
    assert tfds("drawn_streets", "train", **how).mask(0).shape == (32, 48)


class Downloads:
    """Stands for downloads, which are drawn already; the builder's own code reads them."""

    def __init__(self, directories):
        self.directories = directories

    def download_and_extract(self, addresses):
        return {name: str(self.directories[name]) for name in addresses}

    def extract(self, path):
        return path.removesuffix(".zip")


def prepare(library, name, data_dir, directories, monkeypatch):
    """Prepares a builder of the library itself from drawn directories."""
    builder = library.builder(name, data_dir=data_dir, file_format="array_record")
    generators = builder._split_generators
    monkeypatch.setattr(builder, "_split_generators", lambda _: generators(Downloads(directories)))
    builder.download_and_prepare()


def test_oxford_iiit_pet(library, tmp_path, monkeypatch):
    trimaps, lists = tmp_path / "annotations" / "trimaps", tmp_path / "annotations"
    for name in ("Bengal_1", "pug_7"):
        save(tmp_path / "images" / f"{name}.jpg", image_of(1))
        save(trimaps / f"{name}.png", mask_of(1, 2, 3))
    (lists / "trainval.txt").write_text("Bengal_1 6 1 2\n")
    (lists / "test.txt").write_text("pug_7 26 2 15\n")
    directories = {"images": tmp_path, "annotations": tmp_path}
    prepare(library, "oxford_iiit_pet", tmp_path / "data", directories, monkeypatch)
    pairs = tfds("oxford_iiit_pet", "train", data_dir=tmp_path / "data")
    assert pairs.labels == ("pet", "background") and pairs.name(0) == "Bengal_1"
    assert pairs[0][1][0, :3].tolist() == [0, 1, 255]
    assert len(tfds("oxford_iiit_pet:4.0.0", "test", data_dir=tmp_path / "data")) == 1


def test_cityscapes_of_tfds(library, tmp_path):
    manual = tmp_path / "data" / "downloads" / "manual"
    manual.mkdir(parents=True)
    for archive, folder, ending, array in (
        ("leftImg8bit", "leftImg8bit", "leftImg8bit", image_of(1)),
        ("gtFine", "gtFine", "gtFine_labelIds", mask_of(*range(34))),
    ):
        with zipfile.ZipFile(manual / f"{archive}_trainvaltest.zip", "w") as file:
            for split, city in (("train", "aachen"), ("val", "munster"), ("test", "bonn")):
                name = f"{folder}/{split}/{city}/{city}_000000_000019_{ending}.png"
                file.writestr(name, encoded(array))
    name = "cityscapes/semantic_segmentation"
    pairs = tfds(name, "validation", data_dir=tmp_path / "data", download=True)
    assert pairs.labels[0] == "road" and pairs.palette[0].tolist() == [128, 64, 128]
    assert pairs.name(0) == "munster_000000_000019"
    assert tfds(name, "test", data_dir=tmp_path / "data", labels=["road"]).palette is None
    assert pairs[0][1][0, :14].tolist() == [255] * 7 + [0, 1, 255, 255, 2, 3, 4]


def test_coco_panoptic(library, tmp_path, monkeypatch):
    # As in COCO's panoptic_val2017.json: categories with gaps, ids of segments as colours.
    categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 200, "name": "rug"}]
    categories += [{"id": 300 + i, "name": f"class {i}"} for i in range(130)]
    ids = {6202563: 3, 70000: 200, 7: 1}
    colours = np.zeros((32, 48, 3), "uint8")
    for column, segment in enumerate(ids):
        colours[:, column] = segment % 256, segment // 256 % 256, segment // 65536
    segments = [
        {"id": segment, "category_id": category, "area": 32, "bbox": [0, 0, 1, 32], "iscrowd": 0}
        for segment, category in ids.items()
    ]
    for split in ("train2017", "val2017"):
        images = [{"id": 37777, "file_name": "000000037777.jpg", "height": 32, "width": 48}]
        content = {
            "categories": categories,
            "images": images,
            "annotations": [
                {"image_id": 37777, "file_name": "000000037777.png", "segments_info": segments}
            ],
        }
        folder = tmp_path / "annotations"
        save(tmp_path / split / "000000037777.jpg", image_of(1))
        save(folder / f"panoptic_{split}" / f"panoptic_{split}" / "000000037777.png", colours)
        (folder / f"panoptic_{split}.json").write_text(json.dumps(content))
    names = [
        f"{split}_{part}" for split in ("train", "validation") for part in ("images", "annotations")
    ]
    prepare(
        library, "coco/2017_panoptic", tmp_path / "data", dict.fromkeys(names, tmp_path), monkeypatch
    )
    pairs = tfds("coco/2017_panoptic", "validation", data_dir=tmp_path / "data")
    assert len(pairs.labels) == 133 and pairs.labels[:3] == ("person", "car", "rug")
    # car, rug, person; the rest belongs to no segment.
    assert pairs[0][1][0, :4].tolist() == [1, 2, 0, 255]
    assert pairs.name(0) == "000000037777" and pairs.image_size(0) == (32, 48)


@pytest.mark.parametrize(
    "name, message",
    [
        ("oxford_pet", "Received: 'oxford_pet'. Names like it: 'oxford_iiit_pet'"),
        ("city", "Names like it: 'cityscapes'"),
        ("zzzqqq", r"Names like it: none; tfds.list_builders\(\) has all"),
        ("voc/2012:9.9.9", "only: 5.0.0"),
        ("cityscapes/no", "BuilderConfig no not found"),
        ("Oxford IIIT", "must be .* 'name/config:version'. Received: 'Oxford IIIT'"),
    ],
)
def test_an_unknown_name_is_told_those_like_it(library, tmp_path, name, message):
    with pytest.raises(ValueError, match=message) as error:
        tfds(name, "train", data_dir=tmp_path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["scene_parse150", "scene_parse150:1.0.0"])
def test_scene_parse150_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match="instances of ADE20K: 100 categories.*data.ade20k"):
        tfds(name, "train", image="image", mask="annotation")


def put_empty_module(monkeypatch, name):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("package", ["tensorflow_datasets", "array_record"])
def test_a_missing_package_is_an_error_with_the_command_that_installs_it(package, monkeypatch):
    put_empty_module(monkeypatch, "tensorflow_datasets")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"{package}: pip install tensorflow-datasets array-record"):
        tfds("oxford_iiit_pet", "train")


@pytest.mark.parametrize(
    "missing, remedy", [("apache_beam", "pip install apache_beam"), (None, "asks")]
)
def test_a_package_that_a_builder_needs_is_named_if_it_is_known(missing, remedy):
    class Builder:
        def is_prepared(self):
            return False

        def download_and_prepare(self):
            raise ImportError("Install TensorFlow 2.", name=missing)

    library = types.SimpleNamespace(builder=lambda *_, **__: Builder())
    with pytest.raises(ImportError, match="To prepare voc, a package is missing") as error:
        sources._prepared_builder(library, "voc", None, download=True)
    assert remedy in str(error.value) and "None" not in str(error.value)


WITHOUT_TENSORFLOW = """
import importlib.machinery, importlib.util, os, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == "tensorflow" else super().find_spec(name, path, target)

standard = importlib.machinery.PathFinder
sys.meta_path[:] = [Finder if finder is standard else finder for finder in sys.meta_path]
others = [backend for backend in ("jax", "torch") if importlib.util.find_spec(backend)]
if not others:
    sys.exit(77)
os.environ["KERAS_BACKEND"] = others[0]

from keras_encnet.data.sources import tfds

pairs = tfds("drawn_streets", "train", data_dir=sys.argv[1], image="photo", mask="classes")
print(len(pairs), pairs[0][1][0, :3].tolist(), pairs.labels)
try:
    tfds("cityscapes", "train", data_dir=sys.argv[2], download=True)
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_tensorflow_data_are_read_and_errors_name_the_remedy(prepared, tmp_path):
    archive = tmp_path / "downloads" / "manual" / "leftImg8bit_trainvaltest.zip"
    archive.parent.mkdir(parents=True)
    archive.touch()
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, prepared, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 77:
        pytest.skip("no other backend is installed")
    assert "4 [0, 1, 2] ('sky', 'road', 'car')" in result.stdout, result.stderr
    assert "To prepare cityscapes, a package is missing" in result.stdout, result.stderr
    assert result.stdout.rstrip().endswith("pip install tensorflow"), result.stdout


# Hugging Face's `datasets`.


def test_an_incomplete_installation_is_an_error_with_the_remedy(monkeypatch):
    put_empty_module(monkeypatch, "array_record")
    put_empty_module(monkeypatch, "tensorflow_datasets")
    with pytest.raises(ImportError, match="logged above.*pip install 'tensorflow-metadata<1.18'"):
        tfds("oxford_iiit_pet", "train")


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("datasets")


@pytest.fixture
def rows(hub):
    values = {
        "image": [{"bytes": encoded(image_of(i)), "path": None} for i in range(3)],
        "annotation": [{"bytes": encoded(mask_of(0, 1, i), COLOURS), "path": None} for i in range(3)],
        "broken": [{"bytes": b"never decoded", "path": None}] * 3,
        "scene": [0, 1, 0],
    }
    features = {name: hub.Image() for name in ("image", "annotation", "broken")}
    features["scene"] = hub.ClassLabel(names=["indoor", "outdoor"])
    return hub.Dataset.from_dict(values, features=hub.Features(features))


def test_a_dataset_of_hugging_face(rows):
    pairs = hf(rows, labels=["sky", "road"], label_map={2: 255})
    assert len(pairs) == 3 and pairs.labels == ("sky", "road")
    image, mask = pairs[2]
    assert np.array_equal(image, image_of(2)) and mask[0, :3].tolist() == [0, 1, 255]
    assert pairs.image_size(1) == (32, 48) and pairs.where(1) == "row 1" and pairs.name(1) == "000001"
    assert hf(rows).labels is None  # "scene" names no classes of pixels
    assert hf(rows, labels=rows.features["scene"]).labels == ("indoor", "outdoor")
    assert hf(rows.with_format("numpy")).image(0).shape == (32, 48, 3)


def test_a_row_that_cannot_be_read_is_named(rows, hub):
    with pytest.raises(ValueError, match="row 0: Cannot read 'broken': it is not an image"):
        hf(rows, mask="broken")[0]
    empty = hub.Dataset.from_dict(
        {"image": rows["image"], "annotation": [None] * 3},
        features=hub.Features(image=hub.Image(), annotation=hub.Image()),
    )
    with pytest.raises(ValueError, match="row 1 must have an image as 'annotation'. Received: None"):
        hf(empty)[1]


def test_columns_may_have_paths(hub, tmp_path):
    save(tmp_path / "1.jpg", image_of(1))
    save(tmp_path / "1.png", mask_of(0, 1), COLOURS)
    paths = {"image": [str(tmp_path / "1.jpg")], "annotation": [str(tmp_path / "1.png")]}
    rows = hub.Dataset.from_dict(paths)
    with pytest.raises(
        ValueError, match=r"`image` must be.*cast_column\('image', datasets.Image\(\)\)"
    ):
        hf(rows)
    for column in paths:
        rows = rows.cast_column(column, hub.Image())
    assert hf(rows)[0][1][0, :2].tolist() == [0, 1]


def test_masks_may_be_arrays_with_names(hub):
    names = hub.Sequence(hub.Sequence(hub.ClassLabel(names=["sky", "road"])))
    rows = hub.Dataset.from_dict(
        {"image": [{"bytes": encoded(image_of(1)), "path": None}], "mask": [mask_of(0, 1).tolist()]},
        features=hub.Features(image=hub.Image(), mask=names),
    )
    pairs = hf(rows, mask="mask")
    assert pairs.labels == ("sky", "road") and np.array_equal(pairs[0][1], mask_of(0, 1))


def test_errors_name_the_columns_and_splits_that_exist(rows, hub):
    columns = "'image', 'annotation', 'broken', 'scene', and those of images 'image', 'annotation', 'b"
    with pytest.raises(
        ValueError, match=f"`mask` must be a column.*'label'. Its columns are {columns}"
    ):
        hf(rows, mask="label")
    with pytest.raises(
        ValueError, match=r"one split.*a dict of 'train', 'test'. Pass dataset\['train'"
    ):
        hf(hub.DatasetDict(train=rows, test=rows))
    with pytest.raises(ValueError, match="Received: list. Load one with datasets.load_dataset"):
        hf([1])


@pytest.mark.slow  # `datasets` imports PyTorch here
def test_a_stream_is_an_error(hub):
    with pytest.raises(ValueError, match="a stream. Load it without streaming=True"):
        hf(hub.IterableDataset.from_generator(lambda: iter([])))


def test_datasets_absent_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        hf([])


def test_a_record_is_read_once_for_its_name():
    class Records(list):
        reads = 0

        def __getitem__(self, i):
            self.reads += 1
            return super().__getitem__(i)

    records = Records([{"file": b"a/1.jpg"}, {"file": "a/2.jpg"}])
    pairs = EncodedPairs(records, "photo", "mask", "record", name="file")
    for _ in range(2):
        assert [pairs.name(i) for i in range(2)] == ["a/1", "a/2"]
    assert records.reads == 2
    again = pickle.loads(pickle.dumps(EncodedPairs([*records], "photo", "mask", "record", name="file")))
    assert again.name(1) == "a/2"
