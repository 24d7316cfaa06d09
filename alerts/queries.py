"""Reads of rules, incidents, channels and planned work."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import Case, F, Prefetch, Q, QuerySet, When

from alerts.models import AlertEvent, AlertRule, Channel, EventStatus, MaintenanceWindow, RuleType
from alerts.types import TYPES, Place, Points, Window
from gpufleet.common.errors import NotFound

HOUR = timedelta(hours=1)
AROUND = timedelta(hours=2)
LONGEST_PAST = timedelta(days=7)


def list_rules() -> QuerySet[AlertRule]:
    """All rules, built-in and added."""
    channels = Prefetch("channels", Channel.objects.order_by("pk"))
    return AlertRule.objects.select_related("evaluation").prefetch_related(channels)


def get_rule(rule_id: int) -> AlertRule:
    """One rule. Raises ``NotFound``."""
    rule = list_rules().filter(pk=rule_id).first()
    if rule is None:
        raise NotFound
    return rule


def list_events(*, tenant_id: int | None) -> QuerySet[AlertEvent]:
    """Incidents that have fired; of one tenant where the caller is bound to it."""
    events = AlertEvent.objects.exclude(status=EventStatus.PENDING).select_related("rule")
    return events if tenant_id is None else events.filter(tenant_id=tenant_id)


# What an incident that fires costs by the hour; what is over costs nothing any more, and sorts last.
COST_NOW = Case(When(status=EventStatus.FIRING, then=F("cost_per_hour"))).desc(nulls_last=True)


def rank_by_cost(events: QuerySet[AlertEvent]) -> QuerySet[AlertEvent]:
    """The costliest of those that fire first, then those without a cost, and what is over last, newest first."""
    return events.order_by(COST_NOW, "status", "-pk")


def unsold_per_hour(*, now: datetime) -> Decimal:
    """What is in service and not sold, or sold without a price, is worth an hour at list price: the whole fleet's, in
    the currency of the list prices that alerts rank by."""
    fleet = [reading for reading in TYPES[RuleType.LEAKAGE_RATE].read(now) if reading.subject == "fleet"]
    return sum((reading.hourly or Decimal() for reading in fleet), Decimal())


@dataclass(frozen=True, slots=True)
class Past:
    """What an incident's rule would have read of its subject around it: (instant, value), the oldest first.

    ``level``: the threshold, where the values are what it is about.
    """

    window: Window
    name: str
    unit: str
    points: Points
    level: float | None


def past_of(event: AlertEvent, *, now: datetime) -> Past:
    """From two hours before an incident until two hours after it, or now; seven days at most."""
    start = event.since - AROUND
    end = min(now, (event.resolved_at or now) + AROUND, start + LONGEST_PAST)
    # An incident that was over between two instants of the plot is to be seen there.
    marks = (event.since,) if event.fired_at is None else (event.since, event.fired_at)
    window, kind = Window(start, max(end, event.since), marks), TYPES[event.rule.type]
    place = Place(event.cluster_id, event.node_id, event.tenant_id, event.gpu_model)
    level = event.rule.threshold if kind.plots_value else None
    return Past(window, *kind.figure, kind.past(event.subject, place, window), level)


def list_channels() -> QuerySet[Channel]:
    """All channels."""
    return Channel.objects.all()


def get_channel(channel_id: int) -> Channel:
    """One channel. Raises ``NotFound``."""
    channel = list_channels().filter(pk=channel_id).first()
    if channel is None:
        raise NotFound
    return channel


def list_windows() -> QuerySet[MaintenanceWindow]:
    """All maintenance windows, past ones too."""
    return MaintenanceWindow.objects.all()


def silence_costs(rules: Collection[AlertRule], *, now: datetime) -> dict[int, list[tuple[Decimal, str]]]:
    """What the incidents under each rule's silence have cost since it began, by currency, at their last known rate.

    A rule that is not silenced at ``now`` has none. One query.
    """
    begun = {
        rule.pk: rule.silenced_at for rule in rules if rule.silenced_until is not None and rule.silenced_until > now
    }
    sums: dict[int, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for event in _costly_under(begun, now):
        begin = max(event.fired_at or now, begun[event.rule_id] or now)
        hours = Decimal(max((event.resolved_at or now) - begin, timedelta()) / HOUR)
        sums[event.rule_id][event.currency] += (event.cost_per_hour or Decimal()) * hours
    return {rule.pk: [(round(amount, 2), code) for code, amount in sorted(sums[rule.pk].items())] for rule in rules}


def _costly_under(begun: dict[int, datetime | None], now: datetime) -> QuerySet[AlertEvent]:
    oldest = min((at for at in begun.values() if at is not None), default=now)
    lived = Q(status=EventStatus.FIRING) | Q(status=EventStatus.RESOLVED, resolved_at__gt=oldest)
    return AlertEvent.objects.filter(lived, rule__in=begun, fired_at__isnull=False, cost_per_hour__isnull=False)
