"""Writing in pictures, also in scripts that Pillow's own font lacks: class names may be Chinese."""

import functools
import itertools

from PIL import ImageDraw, ImageFont

# Pillow looks for these where the system keeps its fonts. Some hold no Latin letters.
FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "msyh.ttc",  # Windows
    "simsun.ttc",
    "PingFang.ttc",  # macOS
    "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf",
    "DejaVuSans.ttf",
)
NO_CHARACTER = "\U0010ffff"  # drawn as any character that a font lacks


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    size: int,
    *,
    right: bool = False,
    width: float | None = None,
) -> None:
    """Writes one line. A character that no font of this computer has becomes "?".

    Args:
        draw: of the picture.
        place: (x, y) of the line's left end, or its right end if `right`, at half of its height.
        text: the line.
        colour: RGB.
        size: of the letters, in pixels.
        right: whether `place` is the right end.
        width: the most pixels that the line may take. What is too long ends in "…".
    """
    if width is not None and text_width(text, size) > width:
        while text and text_width(text + "…", size) > width:
            text = text[:-1]
        text += "…"
    x, y = place
    if right:
        x -= text_width(text, size)
    for font, part in _parts(text, size):
        # At the baseline, since fonts differ in height.
        draw.text((x, y + round(0.35 * size)), part, colour, font, anchor="ls")
        x += font.getlength(part)


def text_width(text: str, size: int) -> float:
    """The width of a line in pixels."""
    return sum(font.getlength(part) for font, part in _parts(text, size))


def can_write(text: str) -> bool:
    """Whether the fonts of this computer have all characters of a text.

    >>> can_write("road"), can_write("\U0010ffff")
    (True, False)
    """
    return all(_font(character, 16) for character in text)


def _parts(text, size):
    """The text as (font, part of the text)."""
    own = _fonts(size)[0]
    fonts = [_font(character, size) for character in text]
    text = "".join(c if font else "?" for c, font in zip(text, fonts, strict=True))
    pairs = zip((font or own for font in fonts), text, strict=True)
    return [
        (font, "".join(character for _, character in those))
        for font, those in itertools.groupby(pairs, key=lambda pair: pair[0])
    ]


@functools.cache
def _fonts(size):
    fonts = [ImageFont.load_default(size)]
    for name in FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            pass  # not installed
    return fonts


@functools.cache
def _font(character, size):
    """The first font with a character, Pillow's own if possible; `None` if no font has it."""
    for font in _fonts(size):
        drawn, lacking = font.getmask(character), font.getmask(NO_CHARACTER)
        if (drawn.size, bytes(drawn)) != (lacking.size, bytes(lacking)):
            return font
    return None
