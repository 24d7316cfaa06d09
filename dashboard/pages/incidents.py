"""An incident's page: what its rule would have read of its subject, around the time of it."""

from dataclasses import dataclass

from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from alerts.models import AlertEvent
from alerts.queries import Past, past_of
from dashboard import plots
from gpufleet.common.panels import Panel, panel_on

POINT_WIDTH = 0.004


@dataclass(frozen=True, slots=True)
class IncidentPanel:
    """The plot; None: nothing is kept of what the incident is about."""

    event: AlertEvent
    past: Past
    svg: SafeString | None
    top: float


@panel_on(AlertEvent)
def incident_panel(request: HttpRequest, event: AlertEvent) -> Panel:
    """The rule's own figure before, during and after, with its threshold marked."""
    past = past_of(event, now=timezone.now())
    top = 1.1 * max([past.level or 0.0, *(value for _, value in past.points)]) or 1.0
    svg = _draw(past, top) if past.points else None
    return Panel("dashboard/pages/incident.html", IncidentPanel(event, past, svg, top))


def _draw(past: Past, top: float) -> SafeString:
    start, span = past.window.start, past.window.end - past.window.start
    line = [(max((at - start) / span, 0.0), value) for at, value in past.points]
    if len(line) == 1:  # A line through one point would not be seen.
        line.append((line[0][0] + POINT_WIDTH, line[0][1]))
    return plots.lines([("gf-line-0", line)], top, f"{past.name} around the incident", past.level)
