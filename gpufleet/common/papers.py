"""What all papers share: the page, its styles, numbered pages, and tables of figures as PDF. See ``fonts``."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from gpufleet.common.fonts import BOLD, REGULAR, marked_up, use_fonts

MARGIN = 20 * mm
WIDTH = A4[0] - 2 * MARGIN
PADDING = 6  # Points, which reportlab leaves free inside a page's frame.
GREY, RULE = colors.HexColor("#5b6470"), colors.HexColor("#d5dae0")
TEXT = ParagraphStyle("text", fontName=REGULAR, fontSize=9, leading=13)
SMALL = ParagraphStyle("small", parent=TEXT, fontSize=7.5, leading=10.5, textColor=GREY)
RIGHT = ParagraphStyle("right", parent=TEXT, alignment=TA_RIGHT)
HEADING = ParagraphStyle("heading", parent=TEXT, fontName=BOLD, fontSize=10, leading=15)
NAME = ParagraphStyle("name", parent=TEXT, fontName=BOLD, fontSize=13, leading=18)
SMALL_RIGHT = ParagraphStyle("small right", parent=SMALL, alignment=TA_RIGHT)
RULED = TableStyle(
    [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, -1), 0.5, RULE),
        ("LEFTPADDING", (0, 0), (0, -1), 0),
        ("RIGHTPADDING", (-1, 0), (-1, -1), 0),
    ]
)

# Six columns of millions stand side by side.
FIGURE = ParagraphStyle("figure", parent=RIGHT, fontSize=7.5)
CLOSE = TableStyle([*RULED.getCommands(), ("LEFTPADDING", (1, 0), (-1, -1), 2), ("RIGHTPADDING", (0, 0), (-2, -1), 2)])


class NumberedPages(Canvas):
    """Pages that know how many there are, with what they are about at the foot of each."""

    def __init__(self, about: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._about, self._states = about, list[dict[str, Any]]()

    def showPage(self) -> None:  # reportlab's name
        """Keep the page until the last one is known."""
        self._states.append(dict(self.__dict__))
        self._startPage()  # type: ignore[attr-defined]  # the stubs lack it; it is how pages are counted first

    def save(self) -> None:
        """Write all pages, each with its number."""
        for number, state in enumerate(self._states, start=1):
            self.__dict__.update(state)
            self.furnish(number, len(self._states))
            super().showPage()
        super().save()

    def furnish(self, number: int, count: int) -> None:
        """The foot of a page."""
        self.setFont(REGULAR, 7.5)
        self.setFillColor(GREY)
        self.drawString(MARGIN, MARGIN / 2, self._about)
        self.drawRightString(A4[0] - MARGIN, MARGIN / 2, f"Page {number} of {count}")


def paragraph(text: str, style: ParagraphStyle = TEXT) -> Paragraph:
    """What people wrote, never markup."""
    return Paragraph(marked_up(text), style)


def document(target: io.BytesIO, *, title: str, author: str) -> SimpleDocTemplate:
    """An A4 document that makes the same bytes of the same story."""
    use_fonts()
    return SimpleDocTemplate(
        target,
        pagesize=A4,
        leftMargin=MARGIN - PADDING,
        rightMargin=MARGIN - PADDING,
        topMargin=MARGIN,
        bottomMargin=MARGIN + 6 * mm,
        title=title,
        author=author,
        invariant=1,
    )


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of a report: words in the first column, figures in the others. ``empty``: what is said without rows."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    empty: str = ""


def report_pdf(title: str, facts: Sequence[str], sheets: Sequence[Sheet], *, author: str) -> bytes:
    """Tables one below the other, on as many pages as they take; ``facts`` stand below the title."""
    target = io.BytesIO()
    paper = document(target, title=title, author=author)
    story: list[Flowable] = [paragraph(author, SMALL), paragraph(title, NAME)]
    story += [paragraph(fact, SMALL) for fact in facts]
    for sheet in sheets:
        story += [Spacer(0, 6 * mm), *_sheet(sheet)]
    paper.build(story, canvasmaker=lambda *args, **options: NumberedPages(title, *args, **options))
    return target.getvalue()


def _sheet(sheet: Sheet) -> list[Flowable]:
    title = [paragraph(sheet.title, HEADING)] if sheet.title else []
    if not sheet.rows:
        return [*title, paragraph(sheet.empty)]
    others = len(sheet.headers) - 1
    first, figure = (0.7, RIGHT) if others == 1 else (0.22, FIGURE)
    cells = [[paragraph(sheet.headers[0], SMALL), *(paragraph(text, SMALL_RIGHT) for text in sheet.headers[1:])]]
    cells += [[paragraph(row[0]), *(paragraph(text, figure) for text in row[1:])] for row in sheet.rows]
    widths = [WIDTH * first, *[WIDTH * (1 - first) / others] * others]
    return [*title, Table(cells, colWidths=widths, repeatRows=1, style=CLOSE if others > 1 else RULED)]
