"""The tables and charts of a report, as HTML."""

import json
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from keras_encnet.inference.gallery import data_uri
from keras_encnet.inference.markup import Bar, named, number, percent, table
from keras_encnet.inference.presence import STEPS, PresenceScores, share
from keras_encnet.inference.records import ImageRecord
from keras_encnet.inference.scoring import Scores

WRITTEN = 24  # classes up to which the confusion matrix has its numbers in it
EDGE = 1600  # pixels along a side of a larger one
CELL = 6, 16  # the smallest and the largest side of its cells, in pixels
RIGHT, WRONG = (37, 99, 201), (201, 72, 15)
LISTED = 12  # confusions in words
BINS = 20  # of the histogram


def class_table(scores: Scores, palette: np.ndarray) -> str:
    """IoU, accuracy, F1 and pixels of every class."""
    pixels = scores.confusion.sum(1)
    columns = scores.iou, scores.accuracy, scores.f1, pixels, share(pixels, pixels.sum())
    rows = [
        (named(label, colour), Bar(iou), percent(accuracy), percent(f1), number(count), percent(part))
        for label, colour, iou, accuracy, f1, count, part in zip(
            scores.labels, palette, *columns, strict=True
        )
    ]
    headings = "class", "IoU %", "accuracy %", "F1 %", "pixels", "of all %"
    caption = "Pixels are those of the truth. A dash: nothing to divide by, left out of the means."
    return table(caption, headings, rows, name="sortable")


def confusion_chart(scores: Scores) -> str:
    """The confusion matrix with its rows divided by their sums: with numbers in it for a few classes,
    otherwise as a picture, in which a script tells the cell under the pointer."""
    shares = np.nan_to_num(share(scores.confusion, scores.confusion.sum(1, keepdims=True)))
    chart = _written_matrix if len(scores.labels) <= WRITTEN else _drawn_matrix
    return chart(shares, [escape(label) for label in scores.labels])


def frequent_confusions(confusion: np.ndarray, count: int = LISTED) -> list[tuple[int, int, int]]:
    """The most frequent confusions: (true class, predicted class, pixels), largest first.

    >>> frequent_confusions(np.array([[5, 1, 0], [3, 0, 0], [0, 0, 9]]))
    [(1, 0, 3), (0, 1, 1)]
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:count]
    cells = zip(*np.unravel_index(largest, wrong.shape), strict=True)
    return [(int(i), int(j), int(wrong[i, j])) for i, j in cells if wrong[i, j]]


def confusion_list(scores: Scores, palette: np.ndarray) -> str:
    """The most frequent confusions in words."""
    truth, wrong = scores.confusion.sum(1), scores.confusion.sum() - np.trace(scores.confusion)
    names = [f"<b>{named(*pair)}</b>" for pair in zip(scores.labels, palette, strict=True)]
    lines = [
        f"<li>{names[i]} was called {names[j]}: {percent(pixels / truth[i], 1)} % of its pixels, "
        f"{percent(pixels / wrong, 1)} % of all errors</li>"
        for i, j, pixels in frequent_confusions(scores.confusion)
    ]
    if not lines:
        return "<p>Not one pixel has a wrong class.</p>"
    return "<ol>\n" + "\n".join(lines) + "\n</ol>"


def histogram(records: Sequence[ImageRecord]) -> str:
    """How many images have which mIoU, as a table with bars."""
    miou = np.array([record.miou for record in records], "float64")
    miou = miou[~np.isnan(miou)]
    counts = np.histogram(miou, BINS, (0, 1))[0]
    filled = np.flatnonzero(counts)
    if not len(filled):
        return ""
    width = 100 // BINS
    rows = [
        (f"{width * i} – {width * (i + 1)} %", number(counts[i]), _bar(counts[i] / counts.max()))
        for i in range(filled[0], filled[-1] + 1)
    ]
    return table("Images by mIoU", ("mIoU", "images", ""), rows, name="histogram")


def presence_table(scores: PresenceScores, labels: Sequence[str], palette: np.ndarray) -> str:
    """How well the presence of every class is known."""
    rows = [
        (
            named(labels[i], palette[i]),
            number(scores.occurs[i]),
            percent(scores.occurs[i] / scores.images, 1),
            Bar(scores.average_precision[i], 1),
            percent(scores.precision[i], 1),
            percent(scores.recall[i], 1),
        )
        for i in range(len(labels))
    ]
    headings = "class", "images", "of all %", "average precision %", "precision %", "recall %"
    caption = "By class. A guess has an average precision of about the class's share of the images."
    return table(caption, headings, rows, name="sortable")


def presence_steps(scores: PresenceScores) -> str:
    """How often a class was there, by the presence that it was given, as a table with bars."""
    width = 100 // STEPS
    rows = [
        (f"{width * i} – {width * (i + 1)} %", number(cases), Bar(part, 1))
        for i, (cases, part) in enumerate(
            zip(scores.cases, share(scores.there, scores.cases), strict=True)
        )
    ]
    caption = "What a presence means: how often the class was there"
    return table(caption, ("presence", "cases", "there %"), rows)


def _bar(part):
    return f'<span style="width:{100 * part:.1f}%"></span>'


def _written_matrix(shares, names):
    head = "".join(f'<th scope="col"><span title="{name}">{name}</span></th>' for name in names)
    rows = [
        f'<tr><th scope="row" title="{name}">{name}</th>'
        + "".join(_matrix_cell(value, i == j) for j, value in enumerate(row))
        + "</tr>"
        for i, (name, row) in enumerate(zip(names, shares, strict=True))
    ]
    return (
        '<div class="scroll"><table class="matrix">\n'
        f"<thead><tr><td>truth ↓ called →</td>{head}</tr></thead>\n"
        "<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
    )


def _matrix_cell(value, right):
    if not value:
        return "<td></td>"
    depth = np.sqrt(value)
    kind = ("right" if right else "wrong") + (" deep" if depth > 0.6 else "")
    return f'<td class="{kind}" style="--depth:{100 * depth:.0f}%">{percent(value, 1)}</td>'


def _drawn_matrix(shares, names):
    pixels = np.empty((*shares.shape, 4))
    pixels[..., :3] = WRONG
    pixels[np.diag_indices(len(shares))] = (*RIGHT, 0)
    # The square root makes a few percent visible.
    pixels[..., 3] = 255 * np.sqrt(shares)
    uri = data_uri(Image.fromarray(np.rint(pixels).astype("uint8")))
    cell = int(np.clip(EDGE // len(names), *CELL))
    titles = "".join(f'<span title="{name}">{name}</span>' for name in names)
    thousandths = np.rint(1000 * shares).astype(int)
    cells = [[[int(j), int(row[j])] for j in np.flatnonzero(row)] for row in thousandths]
    cells = json.dumps(cells, separators=(",", ":"))
    return (
        '<div><div class="scroll tall">'
        f'<table class="picture" style="--cell:{cell}px;--n:{len(names)}">\n'
        f"<thead><tr><td>truth ↓ called →</td><th>{titles}</th></tr></thead>\n"
        f'<tbody><tr><th>{titles}</th><td><img id="matrix" src="{uri}" '
        'alt="Confusion matrix: a row for each true class, a column for each predicted class">'
        "</td></tr></tbody></table></div>\n"
        '<p id="cell" aria-live="polite" hidden>Point at a cell to read it.</p></div>\n'
        f'<script type="application/json" id="cells">{cells}</script>'
    )
