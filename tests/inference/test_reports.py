import csv
import html
import io
import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_encnet.inference import gallery
from keras_encnet.inference.charts import frequent_confusions
from keras_encnet.inference.gallery import chosen, error_picture, truth_picture
from keras_encnet.inference.presence import average_precision, presence_scores
from keras_encnet.inference.records import record_of
from keras_encnet.inference.reports import write_report
from keras_encnet.inference.scoring import Scores

NOTHING = {"index": 2, "name": "void", "source": "", "size": (32, 32), "presence": None}
NASTY = "<script>alert(\"x\")</script> & 'co'"


class Example:
    """A set of images whose truth is in bands and whose prediction is wrong in part of the pixels."""

    def __init__(self, num_classes=3, num_images=4, labels=None, names=None, presence=True, seed=0):
        rng = np.random.default_rng(seed)
        self.labels = tuple(labels or (f"class {i}" for i in range(num_classes)))
        self.names = names or [f"street/{i:06d}" for i in range(num_images)]
        self.asked = []
        total, self.records, self.maps = np.zeros((num_classes,) * 2, "int64"), [], []
        for i, name in enumerate(self.names):
            found = rng.permutation(num_classes)[: rng.integers(2, 9)]
            truth = np.repeat(rng.choice(found, 12), 4)[:, None].repeat(64, 1)
            prediction = truth.copy()
            wrong = rng.integers(0, 49)
            prediction[:wrong, 20:50] = rng.choice(found)
            truth[:, :2] = 255 if num_classes <= 255 else 65535
            counted = truth < num_classes
            confusion = np.zeros((num_classes,) * 2, "int64")
            np.add.at(confusion, (truth[counted], prediction[counted]), 1)
            there = np.isin(np.arange(num_classes), truth)
            given = np.clip(there * 0.6 + rng.random(num_classes) * 0.4, 0, 1).astype("float32")
            record = record_of(
                confusion,
                index=i,
                name=name,
                source=f"{name}.jpg",
                size=truth.shape,
                presence=given if presence else None,
            )
            total += confusion
            self.records.append(record)
            self.maps.append((truth, prediction))
        self.scores = Scores(self.labels, total, len(self.records))

    def picture_of(self, place):
        self.asked.append(place)
        image = np.full((*self.maps[place][0].shape, 3), 90, "uint8")
        return image, *self.maps[place]

    def write(self, directory, **changes):
        how = {"model": "streets", "resize": (2048, 512), "ratios": (1.0,), "flip": False}
        options = {"picture_of": self.picture_of, "title": "Streets", "how": how, **changes}
        write_report(directory, self.scores, self.records, **options)
        return (directory / "index.html").read_text("utf-8")


class Addresses(HTMLParser):
    """All that a page would load, the names of its elements, and its descriptions of pictures."""

    def __init__(self, page):
        super().__init__()
        self.loaded, self.names, self.descriptions = [], [], []
        self.feed(page)

    def handle_starttag(self, name, attributes):
        self.names.append(name)
        self.descriptions += [value for key, value in attributes if key == "alt"]
        self.loaded += [
            value
            for key, value in attributes
            if key in ("src", "srcset", "data") or (name, key) == ("link", "href")
        ]


def text_of(page):
    """What a reader sees, on one line."""
    page = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())


def pictures_in(page, kind="png"):
    return [
        np.asarray(Image.open(io.BytesIO(b64decode(data))))
        for data in re.findall(f'src="data:image/{kind};base64,([^"]*)"', page)
    ]


def test_the_page_stands_alone_and_shows_the_scores(tmp_path):
    example = Example()
    page = example.write(tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "index.html",
        "per_image.csv",
        "scores.json",
    ]
    assert all(address.startswith("data:") for address in Addresses(page).loaded)
    assert not re.search(r"url\(|@import|https?://", page)
    text, scores = text_of(page), example.scores
    for figure in (
        scores.miou,
        scores.mean_accuracy,
        scores.pixel_accuracy,
        scores.mean_f1,
        *scores.iou,
    ):
        assert f"{100 * figure:.2f}" in text
    for words in (
        "to fit into 2048 × 512, long × short side",
        "model streets",
        "flip no",
        "4 images",
        "class 2",
    ):
        assert words in text


@pytest.mark.parametrize(
    "how, words",
    [
        (
            {"resize": None, "window": False},
            "resize none: each image at its own size window none: each",
        ),
        ({"resize": 520, "window": 480}, "resize long side 520 window 480 × 480"),
        ({"window": [512, 1024], "stride": None}, "window 512 × 1024, height × width stride none"),
        ({"window": (48, 40), "stride": (32, 27)}, "window 48 × 40, height × width stride 32 × 27"),
        ({"ratios": (0.5, 1.0), "flip": True, "Keras": "3.15"}, "ratios 0.5, 1.0 flip yes Keras 3.15"),
    ],
)
def test_how_it_was_measured_is_told_in_words(tmp_path, how, words):
    assert words in text_of(Example().write(tmp_path, how=how))


def test_names_are_text_whatever_they_hold(tmp_path):
    example = Example(3, labels=[NASTY, "道路", "b"], names=[NASTY, "照片/一", "\udcff.jpg"])
    page = example.write(tmp_path, title=NASTY, how={NASTY: NASTY})
    assert Addresses(page).names.count("script") == Addresses(Example().write(tmp_path)).names.count(
        "script"
    )
    assert text_of(page).count(NASTY) >= 6 and "道路" in page and "照片/一" in page
    assert f"{NASTY}: truth" in Addresses(page).descriptions
    many = Example(40, labels=[NASTY] * 40).write(tmp_path)
    assert f"<{NASTY[1:7]}>alert" not in many and f'title="{html.escape(NASTY)}"' in many


def test_scores_are_kept_exactly_and_without_nan(tmp_path):
    example = Example()
    confusion = np.array([[2**53 + 1, 7, 0], [0, 9, 0], [0, 0, 0]])
    example.scores = Scores(example.labels, confusion, 4)
    example.write(tmp_path, how={"ratios": (0.5, 1.0), "step": np.float32("nan"), "count": np.int64(3)})

    def refuse(name):
        raise AssertionError(name)

    found = json.loads((tmp_path / "scores.json").read_text("utf-8"), parse_constant=refuse)
    assert found["confusion"] == [[9007199254740993, 7, 0], [0, 9, 0], [0, 0, 0]]
    assert found["classes"][1]["iou"] == 9 / 16 and found["classes"][2]["iou"] is None
    assert found["how"] == {"ratios": [0.5, 1.0], "step": None, "count": 3}
    assert found["presence"]["images"] == 4 and len(found["presence"]["classes"]) == 3


def test_a_spreadsheet_gets_every_image_and_no_formula(tmp_path):
    names = ['=HYPERLINK("x")', "+1", "-1", "@a", "\tb", 'a,\n"b"', "plain"]
    example = Example(3, labels=["=road", "sky", "car"], names=names)
    example.write(tmp_path)
    content = (tmp_path / "per_image.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbfname,height,width,pixels,miou,")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    assert [row["name"] for row in rows] == [*("'" + name for name in names[:5]), *names[5:]]
    for row, (truth, prediction) in zip(rows, example.maps, strict=True):
        counted = truth < 3
        assert row["pixels"] == str(counted.sum()) and (row["height"], row["width"]) == ("48", "64")
        assert float(row["pixel_accuracy"]) == pytest.approx(
            (truth == prediction)[counted].mean(), abs=1e-6
        )
        hits, union = (
            ((truth == 0) & (prediction == 0)).sum(),
            ((truth == 0) | (prediction == 0) & counted).sum(),
        )
        assert row["iou =road"] == (f"{hits / union:.6f}" if union else "")


def test_an_error_leaves_the_earlier_report(tmp_path):
    before = Example().write(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")

    def broken(place):
        raise OSError("a.jpg is gone")

    with pytest.raises(OSError, match="a.jpg is gone"):
        Example(seed=1).write(tmp_path, picture_of=broken)
    assert (tmp_path / "index.html").read_text("utf-8") == before
    assert len(list(tmp_path.iterdir())) == 4


def test_the_worst_the_middle_and_the_best_are_shown(tmp_path):
    example = Example(num_images=101)
    page = example.write(tmp_path)
    ranking = sorted(range(101), key=lambda place: example.records[place].miou)
    worst, middle, best = ranking[:6], ranking[47:53], ranking[:-7:-1]
    assert [group.places for group in chosen(example.records)] == [worst, middle, best]
    assert example.asked == worst + middle + best
    assert page.count("<figure") == 18


def test_images_without_counted_pixels_are_not_ranked(tmp_path):
    example = Example(num_images=2)
    nothing = record_of(np.zeros((3, 3), "int64"), **NOTHING)
    example.records.append(nothing)
    text = text_of(example.write(tmp_path))
    assert "1 image without a counted pixel left out" in text and sorted(example.asked) == [0, 1]
    lines = (tmp_path / "per_image.csv").read_text("utf-8-sig").splitlines()
    assert lines[3] == "void,32,32,0,,,,,"
    example.records, example.asked = [nothing], []
    assert "No image has a counted pixel." in text_of(example.write(tmp_path))


def test_pictures_mark_errors_and_what_does_not_count():
    truth = np.repeat([[0, 1, 255]], 16, 0).repeat(16, 1)
    prediction = np.zeros_like(truth)
    errors = np.asarray(error_picture(truth, prediction, 2))
    assert (errors[:, :16, 3] == 0).all()
    assert (errors[:, 16:32] == (217, 72, 15, 255)).all()
    assert set(np.unique(errors[:, 32:, 3])) == {0, 150}
    colours = np.asarray(truth_picture(truth, np.array([[9, 9, 9], [7, 0, 0]], "uint8")))
    assert (colours[:, :16] == (9, 9, 9, 255)).all() and (colours[:, 16:32] == (7, 0, 0, 255)).all()
    np.testing.assert_array_equal(colours[:, 32:], errors[:, 32:])


def test_many_classes_are_a_picture_of_the_confusion_matrix(tmp_path):
    example = Example(num_classes=30)
    confusion = np.zeros((30, 30), "int64")
    confusion[0, :2] = 75, 25
    confusion[5, 5] = 9
    example.scores = Scores(example.labels, confusion, 4)
    matrix = next(p for p in pictures_in(example.write(tmp_path)) if p.shape == (30, 30, 4))
    alpha = matrix[..., 3]
    assert (alpha[0, 0], alpha[0, 1], alpha[5, 5]) == (221, 128, 255)  # 255 √0.75, 255 √0.25, 255
    assert np.count_nonzero(alpha) == 3
    assert tuple(matrix[0, 0, :3]) == (37, 99, 201) and tuple(matrix[0, 1, :3]) == (201, 72, 15)


def test_confusions_are_told_in_words(tmp_path):
    example = Example()
    confusion = np.array([[60, 30, 10], [0, 50, 10], [0, 0, 40]])
    assert frequent_confusions(confusion) == [(0, 1, 30), (0, 2, 10), (1, 2, 10)]
    example.scores = Scores(("road", "sky", "car"), confusion, 4)
    text = text_of(example.write(tmp_path))
    assert "road was called sky : 30.0 % of its pixels, 60.0 % of all errors" in text
    assert "sky was called car : 16.7 % of its pixels, 20.0 % of all errors" in text
    example.scores = Scores(("road", "sky", "car"), np.diag([5, 0, 0]), 4)
    text = text_of(example.write(tmp_path))
    assert "Not one pixel has a wrong class" in text
    assert "Neither in the truth nor predicted, so left out of the means: sky, car." in text


def test_presence_is_scored_by_hand():
    presence = [[0.9, 0.5], [0.8, 0.2], [0.3, 0.2], [0.3, 1.0]]
    present = [[True, False], [False, False], [True, False], [False, False]]
    scores = presence_scores(presence, present)
    # Class 0: recall 1/2 at precision 1; then two images of the same presence: recall 1, precision 2/4.
    np.testing.assert_allclose(scores.average_precision, [0.75, np.nan])
    np.testing.assert_allclose(scores.precision, [1 / 2, 0])
    np.testing.assert_allclose(scores.recall, [1 / 2, np.nan])
    assert (scores.all_precision, scores.all_recall, scores.mean_average_precision) == (
        1 / 4,
        1 / 2,
        0.75,
    )
    assert scores.cases.tolist() == [0, 0, 2, 2, 0, 1, 0, 0, 1, 2]
    assert scores.there.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 1]


def test_average_precision_is_that_of_scikit_learn():
    presence = np.array([0.9, 0.8, 0.8, 0.7, 0.55, 0.5, 0.5, 0.3, 0.1, 0.1])
    present = np.array([1, 0, 1, 1, 0, 1, 0, 0, 1, 0], bool)
    # sklearn.metrics.average_precision_score of scikit-learn 1.9.1.
    assert average_precision(presence, present) == pytest.approx(0.6976190476190476, abs=1e-15)
    assert average_precision(presence[::-1], present[::-1]) == average_precision(presence, present)


def test_one_pixel_of_the_truth_makes_a_class_present(tmp_path):
    example = Example()
    confusion = np.array([[99, 0, 9], [1, 0, 0], [0, 0, 0]])  # class 2 is predicted, but not there
    example.records = [
        record._replace(cells=record_of(confusion, **NOTHING).cells) for record in example.records
    ]
    example.write(tmp_path)
    found = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert [entry["images"] for entry in found["presence"]["classes"]] == [4, 4, 0]


def test_a_model_without_an_se_head_has_no_presence(tmp_path):
    text = text_of(Example(presence=False).write(tmp_path))
    assert "The model has no SE head" in text
    assert "presence" not in json.loads((tmp_path / "scores.json").read_text("utf-8"))


def test_pictures_shrink_until_they_fit(tmp_path, monkeypatch):
    example = Example(num_images=2)
    image, label_map = np.zeros((300, 600, 3), "uint8"), np.zeros((300, 600), "uint8")

    def shapes():
        page = example.write(tmp_path, picture_of=lambda place: (image, label_map, label_map))
        return {picture.shape[:2] for kind in ("jpeg", "png") for picture in pictures_in(page, kind)}

    assert shapes() == {(240, 480)}
    monkeypatch.setattr(gallery, "BUDGET", 0)
    assert shapes() == {(80, 160)}


@pytest.mark.slow
def test_the_page_stays_small_even_with_noise(tmp_path):
    example = Example(150, num_images=20)
    rng = np.random.default_rng(0)

    def noise(place):
        label_maps = rng.integers(0, 150, (2, 600, 800)).astype("uint8")
        return rng.integers(0, 256, (600, 800, 3)).astype("uint8"), *label_maps

    page = example.write(tmp_path, picture_of=noise)
    assert len(page) < 3e6 and page.count("<figure") == 18


# === In a browser ===


def opened(browser, directory, **options):
    """The report in a browser; what it asks for and complains of is kept."""
    page = browser.new_page(**options)
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.goto((directory / "index.html").as_uri())
    return page


@pytest.mark.parametrize("num_classes", [2, 40])
def test_a_browser_shows_it_on_a_phone_without_asking_for_more(browser, tmp_path, num_classes):
    labels = ["a very long name of a class " * 4, *(f"名字{i}" for i in range(1, num_classes))]
    Example(num_classes, 3, labels=labels, names=["x" * 300, "b", "c"]).write(tmp_path)
    page = opened(browser, tmp_path, viewport={"width": 375, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.evaluate("[...document.images].every(i => i.loading == 'lazy' || i.naturalWidth > 0)")
    assert not page.complaints
    assert all(url.startswith(("file:", "data:")) for url in page.asked)
    assert len([url for url in page.asked if url.startswith("file:")]) == 1
    page.close()


def test_tables_are_sorted_by_a_click_and_readable_without_scripts(browser, tmp_path):
    example = Example(3)
    confusion = np.array([[60, 30, 0], [0, 50, 0], [0, 0, 0]])
    example.scores = Scores(("road", "sky", "car"), confusion, 4)
    example.write(tmp_path)
    page = opened(browser, tmp_path)
    table = page.locator("table").first

    def names():
        return table.locator("tbody th").all_inner_texts()

    button = table.get_by_role("button", name="IoU")
    button.click()
    assert names() == ["road", "sky", "car"]  # 60/90, 50/80, none
    button.click()
    assert names() == ["sky", "road", "car"]
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("IoU")
    table.get_by_role("button", name="class").click()
    assert names() == ["car", "road", "sky"]
    page.close()

    context = browser.new_context(java_script_enabled=False)
    page = opened(context, tmp_path)
    assert page.locator("table").first.locator("tbody th").all_inner_texts() == ["road", "sky", "car"]
    assert page.locator("button").count() == 0 and page.get_by_text("66.67").count()
    context.close()


def test_the_cell_under_the_pointer_is_told(browser, tmp_path):
    example = Example(40)
    confusion = np.zeros((40, 40), "int64")
    confusion[3, 5] = confusion[3, 3] = 8
    example.scores = Scores(example.labels, confusion, 4)
    example.write(tmp_path)
    page = opened(browser, tmp_path)
    side = page.locator("#matrix").evaluate("matrix => matrix.clientWidth / 40")
    page.locator("#matrix").hover(position={"x": 5.5 * side, "y": 3.5 * side})
    told = page.locator("#cell").inner_text()
    assert told == "class 3 was called class 5: 50.0 % of its pixels"
    page.close()


def test_scores_are_there_only_if_they_belong_to_the_page(tmp_path, monkeypatch):
    Example().write(tmp_path)

    def killed(self, target):
        if self.name == "per_image.csv":
            raise KeyboardInterrupt
        return rename(self, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Example(num_classes=7).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "per_image.csv"]
