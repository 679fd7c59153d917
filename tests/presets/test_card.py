"""The model card has a valid header and shows how to use the model."""

import re

import keras
import pytest
import yaml

from keras_encnet import EncNet
from keras_encnet.presets.card import model_card

LABELS = ["road | lane", "sky", "a_b*c"]


@pytest.fixture(scope="module")
def model():
    return EncNet("resnet18", 3, labels=LABELS, width=0.125, head_channels=8, num_codes=4)


def split(card):
    header, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    return yaml.safe_load(header), body


def test_header_is_valid_for_the_hub(model):
    header, _ = split(model_card(model, "ada/streets", datasets=["ada/photos"]))
    assert header == {
        "library_name": "keras",
        "pipeline_tag": "image-segmentation",
        "license": "apache-2.0",
        "tags": ["keras-encnet", "encnet", "semantic-segmentation"],
        "datasets": ["ada/photos"],
    }
    header, body = split(model_card(model, "ada/streets", licence=None))
    assert "license" not in header and "Not stated" in body
    # Text that YAML would parse as another type stays text.
    assert split(model_card(model, "ada/streets", licence="no: 1"))[0]["license"] == "no: 1"


def test_usage(model):
    _, body = split(model_card(model, "hf://ada/streets"))
    code = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    assert 'model = EncNet.from_preset("hf://ada/streets")' in code[0]
    assert 'model.segment("photo.jpg")' in code[0]
    assert code[1].split() == (
        'import keras import keras_encnet model = keras.saving.load_model("hf://ada/streets")'.split()
    )
    for snippet in code:
        compile(snippet, "card", "exec")


def test_labels_and_network(model):
    _, body = split(model_card(model, "ada/streets"))
    assert r"`0` road \| lane, `1` sky, `2` a\_b\*c" in body
    assert f"| parameters | {model.count_params():,} |" in body and "| backbone | resnet18 |" in body
    nameless = EncNet("resnet18", 2, width=0.125, head_channels=8, num_codes=4)
    assert "`0` class 0, `1` class 1" in model_card(nameless, "ada/streets")


def test_figures_only_if_given(model):
    assert "## Figures" not in model_card(model, "ada/streets")
    published = {"mIoU": 42.61, "mIoU, flipped": 44.01}
    _, body = split(model_card(model, "ada/streets", published=published, measured={"mIoU": "42.6"}))
    assert [line for line in body.splitlines() if "mIoU" in line or "published" in line] == [
        "|  | published | measured |",
        "| mIoU | 42.61 | 42.6 |",
        "| mIoU, flipped | 44.01 |  |",
    ]
    _, body = split(model_card(model, "ada/streets", measured={"mIoU": 61.5}))
    assert "|  | measured |" in body and "published" not in body


def test_picture_source_terms_and_citation(model):
    _, body = split(
        model_card(
            model,
            "ada/streets",
            title="Streets of *Turin*",
            picture="example.png",
            source="Trained from scratch.",
            terms="The photographs are for research alone.",
            citation="@misc{ada, title = {Streets}}",
        )
    )
    assert body.startswith("\n# Streets of \\*Turin\\*\n\n![Streets of \\*Turin\\*](example.png)\n")
    assert "\nTrained from scratch.\n" in body
    assert "\n`apache-2.0`\n\nThe photographs are for research alone.\n" in body
    bibtex = re.search(r"```bibtex\n(.*)```", body, re.DOTALL)[1]
    assert bibtex.startswith("@misc{ada") and "@InProceedings{Zhang_2018_CVPR" in bibtex


def test_no_placeholders_and_no_gaps(model):
    for card in (model_card(model, "ada/streets"), model_card(model, "ada/streets", picture="a.png")):
        assert "$" not in card and "None" not in card and "\n\n\n" not in card
        assert card.endswith("```\n")


def test_names_of_others_are_no_html():
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 8, strides=8, padding="same")(pixels)
    backbone = keras.Model(pixels, [features, features], name="<img src=x>")
    labels = ["<script>", "a|b\nc"]
    card = model_card(EncNet(backbone, 2, labels=labels, head_channels=4, num_codes=2), "ada/streets")
    assert not re.search(r"(?<!\\)<(img|script)", card)
    assert r"| backbone | \<img src=x\> |" in card and r"`1` a\|b c" in card
