"""The model card: `README.md` of a published model."""

import pathlib
import re
import string
from collections.abc import Mapping, Sequence

import keras

from keras_encnet.data.conventions import class_names
from keras_encnet.zoo.table import bibtex


def model_card(
    model: keras.Model,
    repo: str,
    *,
    title: str | None = None,
    picture: str | None = None,
    published: Mapping[str, float | str] | None = None,
    measured: Mapping[str, float | str] | None = None,
    licence: str | None = "apache-2.0",
    citation: str | None = None,
    source: str | None = None,
    datasets: Sequence[str] | None = None,
    terms: str | None = None,
) -> str:
    """The text of a model card: description, usage, labels, results, licence and citation.

    Args:
        model: an `EncNet`.
        repo: `"user/name"` or `"hf://user/name"`, the model's repository.
        title: the heading; default: the name of the repository.
        picture: name of an image file in the repository, shown at the top.
        published: results that the authors published, by what was measured.
        measured: the same, measured with this model.
        licence: the Hub's identifier of a licence, such as `"apache-2.0"` or `"cc-by-nc-4.0"`, or
            `None` to state none.
        citation: BibTeX to put before that of EncNet.
        source: where the weights come from, as Markdown.
        datasets: the Hub's names (`"user/name"`) of the training data sets.
        terms: terms of use of the training data, as Markdown.

    Returns:
        Markdown with a YAML header, for `push_to_hub(card=...)`.

    >>> from keras_encnet.presets.card import model_card
    >>> model = keras_encnet.EncNet("resnet18", 2, labels=["road", "sky"], width=0.125, head_channels=8)
    >>> print(model_card(model, "ada/streets", measured={"mIoU": 61.5}))
    ---
    library_name: keras
    ...
    model = EncNet.from_preset("hf://ada/streets")
    ...
    """
    from huggingface_hub import ModelCardData

    repo = str(repo).removeprefix("hf://")
    title = title or repo.rsplit("/", 1)[-1]
    header = ModelCardData(
        library_name="keras",
        pipeline_tag="image-segmentation",
        license=licence,
        tags=["keras-encnet", "encnet", "semantic-segmentation"],
        datasets=datasets and list(datasets),
    )
    template = string.Template(pathlib.Path(__file__).with_name("card.md").read_text("utf-8"))
    text = template.substitute(
        header=header.to_yaml(),
        title=_plain(title),
        picture=f"![{_plain(title)}]({picture})" if picture else "",
        num_classes=model.num_classes,
        source=source or "",
        repo=repo,
        labels=_labels(model),
        figures=_figures(published or {}, measured or {}),
        network=_network(model),
        licence=f"`{licence}`" if licence else "Not stated. Ask the owner before you use it.",
        terms=terms or "",
        citation="\n\n".join(filter(None, [citation and citation.strip(), bibtex()])),
    )
    # Missing parts leave blank lines.
    return re.sub(r"\n{3,}", "\n\n", text)


def _labels(model):
    names = class_names(model.num_classes, model.labels)
    return ", ".join(f"`{i}` {_plain(name)}" for i, name in enumerate(names))


def _figures(published, measured):
    columns = {"published": published, "measured": measured}
    columns = {title: figures for title, figures in columns.items() if figures}
    if not columns:
        return ""
    rows = [
        [what, *(figures.get(what, "") for figures in columns.values())]
        for what in {**published, **measured}
    ]
    return "## Figures\n\n" + _table(["", *columns], rows)


def _network(model):
    rows = {
        "backbone": _plain(model.backbone_name or model.backbone.name),
        "output stride": model.output_stride if model.backbone_name else None,
        "width": model.width if model.width != 1 else None,
        "head": f"{model.head_channels} channels, {model.num_codes} codewords"
        + ", laterals" * model.laterals,
        "presence of classes (SE head)": "yes" if model.se_head else "no",
        "parameters": f"{model.count_params():,}",
        "bilinear resizing": "corners aligned" if model.align_corners else "corners not aligned",
    }
    for key, value in (model.evaluation or {}).items():
        if value is not None:
            rows[f"evaluated with `{key}`"] = f"`{value}`"
    return _table(["", ""], [[what, value] for what, value in rows.items() if value is not None])


def _table(header, rows):
    lines = [header, ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value):
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return " ".join(re.sub(r"(?<!\\)\|", r"\|", text).split())


def _plain(text):
    """Text on one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(str(text).split()))
