"""Small pieces of HTML: numbers, colours, tables."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple


class Bar(NamedTuple):
    """A cell with a number and a bar of its length: `share` in [0, 1] or NaN, with so many decimals."""

    share: float
    digits: int = 2


def percent(share: float, digits: int = 2) -> str:
    """A share in percent, or a dash for NaN.

    >>> percent(0.43876), percent(0.5, 0), percent(float("nan"))
    ('43.88', '50', '–')
    """
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}"


def number(count: int) -> str:
    """A number with commas between thousands.

    >>> number(1234567)
    '1,234,567'
    """
    return f"{int(count):,}"


def named(label: str, colour: Sequence[int]) -> str:
    """The name of a class behind a field of its RGB colour.

    >>> named("a<b", (255, 0, 128))
    '<span class="named"><i style="background:#ff0080"></i>a&lt;b</span>'
    """
    red, green, blue = map(int, colour)
    field = f'<i style="background:#{red:02x}{green:02x}{blue:02x}"></i>'
    return f'<span class="named">{field}{escape(label)}</span>'


def table(caption: str, headings: Iterable[str], rows: Iterable[Sequence], *, name: str = "") -> str:
    """A table, in a box that scrolls sideways where it is too wide.

    Args:
        caption: text above the table.
        headings: of the columns, HTML.
        rows: the first cell of each is its heading, HTML; the others are numbers: HTML, or a `Bar`.
        name: CSS classes of the table; "sortable" makes the headings buttons that sort.

    >>> print(table("Marks", ["who", "mark"], [["Ada", "5"]]))
    <p class="caption">Marks</p>
    <div class="scroll"><table class="" aria-label="Marks">
    <thead><tr><th scope="col">who</th><th scope="col">mark</th></tr></thead>
    <tbody>
    <tr><th scope="row">Ada</th><td>5</td></tr>
    </tbody></table></div>
    """
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(map(_cell, rest))}</tr>' for first, *rest in rows
    )
    return (
        f'<p class="caption">{escape(caption)}</p>\n'
        f'<div class="scroll"><table class="{escape(name)}" aria-label="{escape(caption)}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(content):
    if not isinstance(content, Bar):
        return f"<td>{content}</td>"
    text = percent(content.share, content.digits)
    length = 0 if math.isnan(content.share) else content.share
    return f'<td class="bar" style="--share:{length:.3f}">{text}</td>'
