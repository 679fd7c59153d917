"""The report of an evaluation: a page to read, and files for programs and spreadsheets."""

import csv
import io
import json
import math
import os
import pathlib
import string
from collections.abc import Callable, Mapping, Sequence
from html import escape

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_encnet.data.conventions import class_palette
from keras_encnet.data.pairs import Pairs
from keras_encnet.files import replacing
from keras_encnet.inference import charts
from keras_encnet.inference.gallery import shown_images
from keras_encnet.inference.geometry import check_ratios, evaluation_rule
from keras_encnet.inference.markup import number, percent
from keras_encnet.inference.presence import PresenceScores, presence_scores, share
from keras_encnet.inference.records import ImageRecord
from keras_encnet.inference.scoring import Scores
from keras_encnet.version import __version__

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
FORMULA = "=", "+", "-", "@", "\t", "\r"  # a spreadsheet runs a cell that begins like this
LISTED = 12  # classes in a sentence


def write_report(
    directory: str | os.PathLike,
    scores: Scores,
    records: Sequence[ImageRecord],
    *,
    picture_of: Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]],
    title: str,
    how: Mapping[str, object],
    palette: ArrayLike | None = None,
) -> None:
    """Writes `index.html`, `scores.json` and `per_image.csv` into a directory.

    The page needs no other file and no network. It shows the scores with their meaning, the classes,
    the confusion matrix, the worst, middle and best images, and how well the SE head knows which
    classes are in a scene. A class counts as there if one counted pixel of the truth has it.

    `scores.json` has all figures and the confusion matrix as exact integers, `null` for NaN.
    `per_image.csv` has a line for each image; an IoU is empty where the class is neither in the truth
    nor in the prediction. A name that a spreadsheet would take for a formula has a `'` before it.

    Args:
        directory: created if needed; an earlier report in it is replaced when all three files are
            complete. `scores.json` goes first and comes last: where it is, all three belong together.
            Other files stay.
        scores: of the set.
        records: of its images.
        picture_of: gives image, `uint8` `(height, width, 3)`, truth and prediction, integers
            `(height, width)`, of the record at a place in `records`. Called for at most 18 of them.
            Truth that is no class is ignored.
        title: heading of the page.
        how: how the scores were made, name by name: model, data set, resize, versions, ….
        palette: colours of the classes, RGB `(num_classes, 3)`; default colours if `None`.

    Raises:
        ValueError: if the palette does not fit the classes.
        OSError: if nothing can be written there.

    >>> import tempfile
    >>> from keras_encnet.inference.records import record_of
    >>> confusion = np.array([[1500, 36], [0, 0]])
    >>> record = record_of(confusion, index=0, name="a", source="a.jpg", size=(32, 48), presence=None)
    >>> image, truth = np.zeros((32, 48, 3), "uint8"), np.zeros((32, 48), "uint8")
    >>> with tempfile.TemporaryDirectory() as here:
    ...     write_report(here, Scores(("road", "sky"), confusion, 1), [record],
    ...         picture_of=lambda place: (image, truth, truth), title="Streets", how={"flip": False})
    ...     sorted(os.listdir(here))
    ['index.html', 'per_image.csv', 'scores.json']
    """
    palette = class_palette(len(scores.labels), palette)
    presence = _presence_of(records)
    page = _page(scores, records, presence, palette, picture_of, title, how)
    files = {
        "index.html": page,
        "scores.json": _scores_json(scores, presence, title, how),
        # The mark at the beginning makes Excel read it as UTF-8.
        "per_image.csv": "\ufeff" + _per_image_csv(scores.labels, records),
    }
    directory = pathlib.Path(directory)
    with replacing(directory / "index.html") as unfinished:
        for name, text in files.items():
            # File names may have bytes that are no text.
            unfinished.with_name(name).write_bytes(text.encode("utf-8", "replace"))
        # The three files move one after the other, this one last.
        (directory / "scores.json").unlink(missing_ok=True)


def conditions(model: keras.Model, pairs: Pairs, how: dict, limit: int | None) -> dict:
    """How `evaluate` saw the images, for the report."""
    given = {name: value for name, value in how.items() if value is not None}
    ratios = check_ratios(given.pop("ratios", 1))
    evaluation = model.evaluation or {}
    protocol = given.pop("protocol", evaluation.get("protocol", "mmsegmentation"))
    geometry = {name: given.pop(name, None) for name in ("resize", "window", "stride")}
    rule = evaluation_rule(evaluation, ratios=ratios, protocol=protocol, **geometry)
    unused = ratios != (1.0,) and rule.protocol.ratios_of_image
    used = pairs[:limit]
    return {
        "data": repr(used).strip("<>")
        + (f", the first of {len(pairs)}" if len(used) < len(pairs) else ""),
        "protocol": protocol,
        "resize": None if unused else rule.resize,
        "window": rule.window,
        "stride": rule.stride,
        "ratios": ratios,
        "flip": False,
        **given,
        "keras-encnet": __version__,
        "Keras": f"{keras.version()}, {keras.backend.backend()}",
    }


def _presence_of(records):
    """`PresenceScores` of the records that have presence, or `None` if there are none."""
    known = [record for record in records if record.presence is not None]
    if not known:
        return None
    return presence_scores(
        [record.presence for record in known], [record.truth > 0 for record in known]
    )


# === Files for programs ===


def _scores_json(scores, presence, title, how):
    content = {"title": title, "how": dict(how), **scores.to_json()}
    if presence is not None:
        content["presence"] = _presence_json(presence, scores.labels)
    return json.dumps(_plain(content), ensure_ascii=False, allow_nan=False, default=str) + "\n"


def _presence_json(presence, labels):
    columns = {
        "images": presence.occurs,
        "average_precision": presence.average_precision,
        "precision": presence.precision,
        "recall": presence.recall,
    }
    return {
        "images": presence.images,
        "mean_average_precision": presence.mean_average_precision,
        "precision": presence.all_precision,
        "recall": presence.all_recall,
        "classes": [
            {"label": label, **{name: values[i] for name, values in columns.items()}}
            for i, label in enumerate(labels)
        ],
        "tenths": [
            {"cases": cases, "there": there}
            for cases, there in zip(presence.cases, presence.there, strict=True)
        ],
    }


def _plain(value):
    """A value without arrays, NumPy's numbers and NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _per_image_csv(labels, records):
    """One line for each image; fractions with six decimals, empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text)
    columns = "name", "height", "width", "pixels", "miou", "pixel_accuracy"
    writer.writerow((*columns, *(f"iou {label}" for label in labels)))
    for record in records:
        figures = (record.miou, record.pixel_accuracy, *share(record.intersections, record.unions))
        name = f"'{record.name}" if record.name.startswith(FORMULA) else record.name
        fractions = ("" if math.isnan(figure) else f"{figure:.6f}" for figure in figures)
        writer.writerow((name, *record.size, record.truth.sum(), *fractions))
    return text.getvalue()


# === The page ===


def _page(scores, records, presence, palette, picture_of, title, how):
    parts = {
        "title": escape(title),
        "summary": f"{_several(scores.num_images, 'image')}, "
        f"{number(scores.confusion.sum())} counted pixels, {_several(len(scores.labels), 'class')}",
        "miou": percent(scores.miou),
        "mean_accuracy": percent(scores.mean_accuracy),
        "pixel_accuracy": percent(scores.pixel_accuracy),
        "mean_f1": percent(scores.mean_f1),
        "absent": _absent(scores),
        "how": _how_list(how),
        "classes": charts.class_table(scores, palette),
        "confusion": charts.confusion_chart(scores),
        "scale": _scale(),
        "confusions": charts.confusion_list(scores, palette),
        "images": _images(records),
        "histogram": charts.histogram(records),
        "gallery": shown_images(records, scores.labels, palette, picture_of),
        "presence": _presence(presence, scores.labels, palette),
        "right": ", ".join(map(str, charts.RIGHT)),
        "wrong": ", ".join(map(str, charts.WRONG)),
    }
    return string.Template(TEMPLATE.read_text("utf-8")).substitute(parts)


def _absent(scores):
    """Sentences on classes that the truth does not have."""
    truth, predicted = scores.confusion.sum(1), scores.confusion.sum(0)
    never = [label for label, a, b in zip(scores.labels, truth, predicted, strict=True) if not a + b]
    false = [label for label, a, b in zip(scores.labels, truth, predicted, strict=True) if b and not a]
    sentences = []
    if never:
        sentences.append(
            f"Neither in the truth nor predicted, so left out of the means: {_list(never)}."
        )
    if false:
        sentences.append(f"Not in the truth but predicted, so with an IoU of 0: {_list(false)}.")
    return f"<p>{' '.join(sentences)}</p>" if sentences else ""


def _list(labels):
    more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return escape(", ".join(labels[:LISTED])) + more


def _how_list(how):
    return "\n".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(_in_words(name, value))}</dd>"
        for name, value in how.items()
    )


def _in_words(name, value):
    """What a setting means, for people."""
    sides = " × ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if name == "resize":
        if not value:
            return "none: each image at its own size"
        return f"to fit into {sides}, long × short side" if "×" in sides else f"long side {sides}"
    if name == "window":
        if not value:
            return "none: each image at once"
        return f"{sides}, height × width" if "×" in sides else f"{sides} × {sides}"
    if name == "stride" and value:
        return sides
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _scale():
    """The colours of some shares, right and wrong."""
    fields = {
        kind: "".join(
            f'<i style="background:color-mix(in srgb,var(--{kind}) {10 * math.sqrt(percent):.0f}%,'
            f'transparent)"></i>{percent} %'
            for percent in (1, 10, 50, 100)
        )
        for kind in ("right", "wrong")
    }
    return f"<span>right {fields['right']}</span> <span>wrong {fields['wrong']}</span>"


def _images(records):
    miou = np.array([record.miou for record in records], "float64")
    known = miou[~np.isnan(miou)]
    if not len(known):
        return "No image has a counted pixel."
    left_out = len(miou) - len(known)
    return (
        "An image's mIoU is the mean over the classes in its truth or its prediction. Over the images "
        f"it has a mean of {percent(known.mean())} % and a median of {percent(np.median(known))} %. "
        "That is not the mIoU of the set, which adds up the pixels of all images before it divides."
        + (f" {_several(left_out, 'image')} without a counted pixel left out." if left_out else "")
    )


def _presence(presence: PresenceScores | None, labels, palette):
    if presence is None:
        return "<p>The model has no SE head, so it gives no presence.</p>"
    return (
        "<p>The SE head gives each class a probability that it is in the scene, its presence. Here it "
        "is compared with the truth, where a class is there if one counted pixel has it. With windows, "
        "ratios or a flip the probability is a mean over all of them.</p>\n"
        "<p>Of the classes with a presence of 50 % or more, "
        f"<b>{percent(presence.all_precision, 1)} %</b> are there (precision). Of those that are "
        f"there, <b>{percent(presence.all_recall, 1)} %</b> have 50 % or more (recall). The average "
        f"precision, <b>{percent(presence.mean_average_precision, 1)} %</b> in the mean over the "
        "classes, asks only whether images with the class come before those without it.</p>\n"
        f"{charts.presence_steps(presence)}\n"
        "<p>Where the last column is near the first, the presence can be read as a probability.</p>\n"
        f"{charts.presence_table(presence, labels, palette)}"
    )


def _several(count, noun):
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number(count)} {noun if count == 1 else plural}"
