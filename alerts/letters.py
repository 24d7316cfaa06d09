"""The words of a message: what, where, since when, how bad, what it costs by the hour, the link, and what to do."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypedDict

from django.conf import settings
from django.urls import reverse

from alerts.models import AlertEvent, AlertRule, DeliveryKind
from alerts.types import TYPES

VERBS = {
    DeliveryKind.FIRING: "FIRING",
    DeliveryKind.RESOLVED: "RESOLVED",
    DeliveryKind.SILENCE_ENDING: "SILENCE ENDS SOON",
}


class EventLine(TypedDict):
    """One incident in a message."""

    id: int
    subject: str
    name: str
    message: str
    where: str
    value: float
    since: str
    resolved_at: str | None
    cost_per_hour: str | None
    currency: str
    flapping: bool
    url: str


class Letter(TypedDict):
    """A message, in the form that a generic webhook's ``data`` has. ``remedy`` is what to do."""

    kind: str
    rule_id: int
    rule_name: str
    rule_type: str
    severity: str
    title: str
    text: str
    cost_per_hour: list[str]
    remedy: str
    written_at: str
    events: list[EventLine]


def compose(
    rule: AlertRule,
    kind: DeliveryKind,
    events: Sequence[AlertEvent],
    *,
    now: datetime,
    silence_costs: Collection[tuple[Decimal, str]] = (),
) -> Letter:
    """The message about incidents of one rule, the costliest first. What is written once is sent as it is."""
    lines = [_line(event) for event in events]
    hourly = [f"{amount} {currency}" for amount, currency in sum_costs(events)]
    count = f" ({len(events)} incidents)" if len(events) > 1 else ""
    letter: Letter = {
        "kind": kind,
        "rule_id": rule.pk,
        "rule_name": rule.name,
        "rule_type": rule.type,
        "severity": rule.severity,
        "title": f"[{VERBS[kind]}] {rule.severity}: {rule.name}{count}",
        "text": "",
        "cost_per_hour": hourly,
        "remedy": TYPES[rule.type].remedy,
        "written_at": _instant(now),
        "events": lines,
    }
    letter["text"] = "\n".join([*_opening(rule, kind, hourly, silence_costs), *map(_as_text, lines), *_closing(letter)])
    return letter


def sum_costs(events: Collection[AlertEvent]) -> list[tuple[Decimal, str]]:
    """What the incidents cost an hour together, by currency."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for event in events:
        if event.cost_per_hour is not None:
            sums[event.currency] += event.cost_per_hour
    return [(sums[currency], currency) for currency in sorted(sums)]


def link_to(event: AlertEvent) -> str:
    """The incident's page in the console; a path alone where ``PUBLIC_URL`` is not set."""
    return settings.PUBLIC_URL.rstrip("/") + reverse("admin:alerts_alertevent_change", args=[event.pk])


def _line(event: AlertEvent) -> EventLine:
    return {
        "id": event.pk,
        "subject": event.subject,
        "name": event.name,
        "message": event.message,
        "where": _where(event),
        "value": event.value,
        "since": _instant(event.since),
        "resolved_at": None if event.resolved_at is None else _instant(event.resolved_at),
        "cost_per_hour": None if event.cost_per_hour is None else str(event.cost_per_hour),
        "currency": event.currency,
        "flapping": event.flapping,
        "url": link_to(event),
    }


def _where(event: AlertEvent) -> str:
    """Its cluster, node, tenant and GPU model, but for what the incident is about itself."""
    places = [
        ("cluster", event.cluster.name if event.cluster else ""),
        ("node", event.node.hostname if event.node else ""),
        ("tenant", event.tenant.name if event.tenant else ""),
        ("gpu_model", event.gpu_model),
    ]
    about = event.subject.partition(":")[0]
    words = [f"{kind} {name}".replace("gpu_model", "GPU model") for kind, name in places if name and kind != about]
    return ", ".join(words) or "the fleet"


def _opening(
    rule: AlertRule, kind: DeliveryKind, hourly: Sequence[str], silence_costs: Collection[tuple[Decimal, str]]
) -> list[str]:
    if kind == DeliveryKind.SILENCE_ENDING and rule.silenced_until is not None:
        spent = " and ".join(f"{amount} {currency}" for amount, currency in silence_costs)
        ends = f"The silence by {rule.silenced_by} ({rule.silence_reason}) ends at {_instant(rule.silenced_until)}."
        return [ends, f"What fires under it has cost {spent} so far." if spent else "What fires under it:"]
    if kind == DeliveryKind.FIRING and hourly:
        return [f"Costs {' and '.join(hourly)} an hour."]
    return []


def _as_text(line: EventLine) -> str:
    until = f" until {line['resolved_at']}" if line["resolved_at"] else ""
    cost = f" {line['cost_per_hour']} {line['currency']} an hour." if line["cost_per_hour"] else ""
    return f"- {line['message']} Where: {line['where']}. Since {line['since']}{until}.{cost}\n  {line['url']}"


def _closing(letter: Letter) -> list[str]:
    return [] if letter["kind"] == DeliveryKind.RESOLVED else [f"What to do: {letter['remedy']}"]


def _instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def as_json(letter: Letter) -> dict[str, Any]:
    """A generic webhook's body: the type and time of Standard Webhooks, and the message as its data."""
    return {"type": f"alert.{letter['kind']}", "timestamp": letter["written_at"], "data": letter}
