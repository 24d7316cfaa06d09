"""How figures look on the console's pages."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django import template
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from billing.queries import minor_unit_of
from dashboard import plots
from dashboard.console import StateCount
from dashboard.heatmap import GpuCell, NodeRow
from dashboard.queries.fleet import Present

register = template.Library()

CELL = '<li class="gf-gpu {}{}" title="{}"><span aria-hidden="true">{}</span><span class="gf-unseen">{}</span></li>'
NODE = '<li class="gf-node"><a href="{}" title="{}, {}">{}</a>{}<ol>{}</ol></li>'
STATUS = (
    '<span class="gf-mark gf-fill-{}" title="{}"><span aria-hidden="true">{}</span>'
    '<span class="gf-unseen">{}</span></span>'
)
SMALL_NODE = '<li class="gf-node"><a href="{}" title="{}" aria-label="{}">{}</a></li>'


@register.filter
def stacked(counts: Iterable[StateCount]) -> SafeString:
    """The states side by side, as wide as their shares."""
    pieces = [plots.Piece(f"gf-fill-{one.state}", one.gpus, f"{one.gpus} {one.state}") for one in counts]
    return plots.stack(pieces, "GPUs by state; the list below has the same figures")


@register.filter
def present_bar(present: Present) -> SafeString:
    """A cluster's states as a thin bar."""
    states = [(state, gpus) for state, gpus in present.states.items() if gpus]
    said = ", ".join(f"{gpus} {state}" for state, gpus in states)
    return plots.stack(
        [plots.Piece(f"gf-fill-{state}", gpus, f"{gpus} {state}") for state, gpus in states], said or "no GPUs"
    )


@register.filter
def cells(node: NodeRow) -> SafeString:
    """A node and its GPUs, each with its sentence."""
    status = node.status
    mark = "" if status == "online" else format_html(STATUS, status, status, status[0].upper(), status)
    inside = format_html_join(
        "", CELL, ((one.shade, _frame(one), one.sentence, one.sign, one.sentence) for one in node.gpus)
    )
    return format_html(NODE, _page(node), node.hostname, status, node.hostname, mark, inside)


@register.filter
def small_cells(node: NodeRow) -> SafeString:
    """A node of a large cluster: a character a GPU, and a sentence for all of them."""
    inside = format_html_join("", '<i class="{}{}">{}</i>', ((one.shade, _frame(one), one.digit) for one in node.gpus))
    return format_html(SMALL_NODE, _page(node), node.sentence, node.sentence, inside)


@register.filter
def since(then: datetime, now: datetime) -> timedelta:
    """How long ago it was."""
    return now - then


@register.filter
def brief(duration: timedelta) -> str:
    """A duration in its largest unit, and the next one where it matters: 40 s, 12 min, 3 h 05 min, 2 d 4 h."""
    seconds = max(int(duration.total_seconds()), 0)
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if hours == 0:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60:02} min" if days == 0 else f"{days} d {hours % 24} h"


@register.filter
def grouped(amount: Decimal) -> str:
    """An amount with its thousands apart."""
    return f"{amount:,}"


@register.filter
def unit(reading: float | str | None, name: str) -> str:
    """A reading with its unit; a dash where there is none, and so for a template no figure."""
    return f"{reading:,.0f} {name}" if isinstance(reading, int | float) else "–"


@register.filter
def as_json(value: Any) -> str:
    """A field of JSON for reading; a dash where it is null."""
    return "-" if value is None else json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


@register.filter
def hours(seconds: Decimal) -> str:
    """GPU-seconds as GPU-hours."""
    return f"{seconds / 3600:,.1f}"


@register.filter
def money(amount: Decimal, currency: str) -> str:
    """An amount with the currency's decimals, and the currency."""
    return f"{currency} {amount.quantize(minor_unit_of(currency)):,}"


@register.filter
def figure(cell: Decimal | str) -> str:
    """A cell of a table: amounts with their thousands apart, words as they are."""
    return grouped(cell) if isinstance(cell, Decimal) else cell


def _frame(cell: GpuCell) -> str:
    return f" gf-frame-{cell.trouble}" if cell.trouble and cell.state == "sold" else ""


def _page(node: NodeRow) -> str:
    return reverse("admin:clusters_node_change", args=[node.node_id])
