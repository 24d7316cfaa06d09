"""Plots as SVG that the server draws: no script, and nothing that the policy would refuse.

Each stretches to the width of its place, so words stand beside it in HTML; a hint tells the figure under the pointer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 1000.0, 200.0
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a plot: its class, its size, and what is said of it."""

    css: str
    size: float
    hint: str


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time on a timeline; ``end`` is None where it goes on."""

    css: str
    start: datetime
    end: datetime | None
    hint: str


def bars(columns: Sequence[Sequence[Piece]], label: str) -> SafeString:
    """Groups of bars from left to right, all on one scale, from zero."""
    top = max((piece.size for column in columns for piece in column), default=0) or 1
    slot = WIDTH / max(len(columns), 1)
    shapes = []
    for place, column in enumerate(columns):
        width = slot * 0.84 / max(len(column), 1)
        for turn, piece in enumerate(column):
            tall = HEIGHT * max(piece.size, 0) / top
            shapes.append(
                (piece.css, slot * place + slot * 0.08 + width * turn, HEIGHT - tall, width, tall, piece.hint)
            )
    return _svg("gf-plot", label, _rects(shapes))


def stack(pieces: Iterable[Piece], label: str) -> SafeString:
    """One bar from left to right whose parts are as wide as their sizes, and together as wide as the place."""
    pieces = [piece for piece in pieces if piece.size > 0]
    total = sum(piece.size for piece in pieces) or 1
    shapes, x = [], 0.0
    for piece in pieces:
        width = WIDTH * piece.size / total
        shapes.append((piece.css, x, 0.0, width, HEIGHT, piece.hint))
        x += width
    return _svg("gf-bar", label, _rects(shapes))


def timeline(spans: Iterable[Span], start: datetime, end: datetime, label: str) -> SafeString:
    """Stretches of time side by side between two instants; what lies outside is cut off."""
    whole = max((end - start).total_seconds(), 1e-6)
    shapes = []
    for span in spans:
        first, last = max(span.start, start), min(span.end or end, end)
        if last > first:
            x = WIDTH * (first - start).total_seconds() / whole
            width = max(WIDTH * (last - first).total_seconds() / whole, 1.5)
            shapes.append((span.css, x, 0.0, width, HEIGHT, span.hint))
    return _svg("gf-bar", label, _rects(shapes))


def lines(
    series: Sequence[tuple[str, Sequence[Point]]], top: float, label: str, level: float | None = None
) -> SafeString:
    """Lines through (0 to 1 of the width, figure) on a scale from zero to ``top``; ``level`` is marked across."""
    top = top or 1
    drawn = format_html_join(
        "",
        '<polyline class="gf-line {}" points="{}"></polyline>',
        (
            (css, " ".join(f"{WIDTH * x:.1f},{HEIGHT * (1 - min(y, top) / top):.1f}" for x, y in points))
            for css, points in series
            if points
        ),
    )
    if level is not None and 0 <= level <= top:
        y = f"{HEIGHT * (1 - level / top):.1f}"
        mark = format_html('<line class="gf-level" x1="0" x2="{}" y1="{}" y2="{}"></line>', int(WIDTH), y, y)
        drawn = format_html("{}{}", drawn, mark)
    return _svg("gf-plot", label, drawn)


def _rects(shapes: Iterable[tuple[str, float, float, float, float, str]]) -> SafeString:
    return format_html_join(
        "",
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>',
        ((css, f"{x:.2f}", f"{y:.2f}", f"{w:.2f}", f"{h:.2f}", hint) for css, x, y, w, h, hint in shapes),
    )


def _svg(css: str, label: str, inside: SafeString) -> SafeString:
    return format_html(
        '<svg class="{}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>',
        css,
        int(WIDTH),
        int(HEIGHT),
        label,
        inside,
    )
