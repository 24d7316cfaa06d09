"""The fonts of the papers, and which of them has a letter.

Open Sans, embedded, has the Latin, Greek and Cyrillic letters. The Han, kana and Hangul of names are set in the fonts
that every PDF reader brings by their standard names, since embedding a font of its own for each would take some
megabytes. A letter that is in none of these is shown as an empty box.
"""

from importlib.resources import files
from itertools import groupby
from xml.sax.saxutils import escape

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont

REGULAR, BOLD = "OpenSans", "OpenSans-Bold"
JAPANESE, KOREAN, CHINESE = "HeiseiKakuGo-W5", "HYGothic-Medium", "STSong-Light"
KANA, HANGUL = ("\u3040", "\u30ff"), ("\uac00", "\ud7a3")
# From the first radical to the end of the plane, without private letters: what the three fonts were made for.
EAST_ASIAN = (("\u2e80", "\ud7ff"), ("\uf900", "\ufaff"), ("\uff00", "\uffef"))


def use_fonts() -> None:
    """Make the fonts known to reportlab, once a process."""
    known = pdfmetrics.getRegisteredFontNames()
    folder = files("ttf_opensans") / "ttf"
    for name, file in ((REGULAR, "OpenSans-Regular.ttf"), (BOLD, "OpenSans-Bold.ttf")):
        if name not in known:
            pdfmetrics.registerFont(TTFont(name, str(folder / file)))
    for name in (JAPANESE, KOREAN, CHINESE):
        if name not in known:
            pdfmetrics.registerFont(UnicodeCIDFont(name))


def marked_up(text: str) -> str:
    """The text for a paragraph: what people wrote is never markup, and each letter has a font that knows it."""
    asian = _east_asian_font(text)
    parts = []
    for is_asian, letters in groupby(map(_printable, text), key=_is_east_asian):
        part = escape("".join(letters))
        parts.append(f'<font name="{asian}">{part}</font>' if is_asian else part)
    return "".join(parts)


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else " "


def _is_east_asian(letter: str) -> bool:
    return any(first <= letter <= last for first, last in EAST_ASIAN)


def _east_asian_font(text: str) -> str:
    """By the letters that only one of them uses; Han alone is set as in China."""
    if any(KANA[0] <= letter <= KANA[1] for letter in text):
        return JAPANESE
    return KOREAN if any(HANGUL[0] <= letter <= HANGUL[1] for letter in text) else CHINESE
