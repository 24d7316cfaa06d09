"""GPUs that are held, and jobs that wait, over time, by policy: an SVG by hand."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from xml.sax.saxutils import escape

from dashboard.replay.living import START
from dashboard.replay.policies import Outcome
from dashboard.replay.trace import Trace

WIDTH, PANEL, LEFT, TOP, GAP = 900, 200, 70, 40, 60
# Told apart by their dashes too, for those who see no colours and where two lines lie on each other.
STYLES = (("#1b6ca8", "0"), ("#c1440e", "6 3"), ("#4a7c59", "2 3"))
POINTS = 800

# (seconds from the beginning, by how much the figure changes).
Change = tuple[float, int]


def plot(trace: Trace, outcomes: Sequence[Outcome]) -> str:
    """The plot, up to the last submission."""
    span = max(trace.ends, 1)
    held = [_curve(_held(outcome), span) for outcome in outcomes]
    waiting = [_curve(_waiting(trace, outcome), span) for outcome in outcomes]
    height = TOP + 2 * PANEL + 2 * GAP
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *_legend([outcome.name for outcome in outcomes]),
        *_panel("GPUs held", held, span, TOP, trace.gpus),
        *_panel("Jobs that wait", waiting, span, TOP + PANEL + GAP, None),
        "</svg>",
    ]
    return "\n".join(body)


def _held(outcome: Outcome) -> list[Change]:
    changes: list[Change] = []
    for one in outcome.holdings.values():
        changes.append(((one.start - START).total_seconds(), one.gpus))
        if one.end is not None:
            changes.append(((one.end - START).total_seconds(), -one.gpus))
    return changes


def _waiting(trace: Trace, outcome: Outcome) -> list[Change]:
    changes: list[Change] = [(float(task.at), 1) for task in trace.tasks]
    return changes + [((one.start - START).total_seconds(), -1) for one in outcome.holdings.values()]


def _curve(changes: Iterable[Change], span: float) -> list[tuple[float, int]]:
    """The highest value within each of so many steps of the time."""
    highest = [0] * (POINTS + 1)
    level, step = 0, 0
    for at, change in sorted(changes):
        here = int(at / span * POINTS)
        if here > POINTS:
            break
        for between in range(step + 1, here + 1):
            highest[between] = level
        step, level = here, level + change
        highest[here] = max(highest[here], level)
    for between in range(step + 1, POINTS + 1):
        highest[between] = level
    return [(step / POINTS * span, value) for step, value in enumerate(highest)]


def _legend(names: Sequence[str]) -> list[str]:
    lines = []
    for number, (name, (colour, dash)) in enumerate(zip(names, STYLES, strict=False)):
        x = LEFT + 270 * number
        style = f'stroke="{colour}" stroke-dasharray="{dash}" stroke-width="2"'
        lines.append(f'<line x1="{x}" y1="16" x2="{x + 30}" y2="16" {style}/>')
        lines.append(f'<text x="{x + 36}" y="20">{escape(name)}</text>')
    return lines


def _panel(
    title: str, curves: Sequence[Sequence[tuple[float, int]]], span: float, top: int, limit: int | None
) -> list[str]:
    most = limit or max([1, *(value for curve in curves for _, value in curve)])
    bottom, width = top + PANEL, WIDTH - LEFT - 20
    lines = [
        f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{LEFT} {top}V{bottom}H{LEFT + width}" fill="none" stroke="#555"/>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:,}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT}" y="{bottom + 16}">0</text>',
        f'<text x="{LEFT + width}" y="{bottom + 16}" text-anchor="end">{timedelta(seconds=span)}</text>',
    ]
    for curve, (colour, dash) in zip(curves, STYLES, strict=False):
        path = " ".join(f"{LEFT + at / span * width:.1f},{bottom - value / most * PANEL:.1f}" for at, value in curve)
        lines.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-dasharray="{dash}" stroke-width="1.5"/>'
        )
    return lines
