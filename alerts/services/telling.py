"""Telling: which incidents are news, to whom, in which words. Each message goes into the outbox in the transaction in
which its incidents fire or end, so that nobody is told twice, and nobody of an incident that does not exist.

What a silence, a maintenance window or another incident covers is told when the cover ends, if it still fires then,
and not before there is fresh data that says so.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import structlog
from django.db.models import Exists, OuterRef, Q, QuerySet

from alerts.letters import Letter, compose
from alerts.models import (
    AlertEvent,
    AlertRule,
    Channel,
    ChannelKind,
    Delivery,
    DeliveryKind,
    EventStatus,
    MaintenanceWindow,
    Severity,
)
from alerts.queries import silence_costs

logger = structlog.stdlib.get_logger(__name__)

# One message speaks of so many incidents of a rule at most. PagerDuty takes one an event, and groups for itself.
MOST_IN_ONE = 50
SILENCE_WARNING = timedelta(minutes=15)
# What a message names of where an incident is.
PLACES = ("cluster", "node", "tenant")
ASCENDING = [Severity.INFO, Severity.WARNING, Severity.CRITICAL]


def tell(kind: str, *, now: datetime) -> int:
    """Put messages about what is new of one type into the outbox, under the type's lock. Returns how many."""
    channels = list(Channel.objects.filter(enabled=True).order_by("pk"))
    return _tell_firing(kind, channels, now) + _tell_ends(kind, now) + _tell_silences_ending(kind, channels, now)


def covered(now: datetime) -> Q:
    """The incidents of which nobody is to be told now: silenced, in maintenance, or explained by another."""
    return Q(rule__silenced_until__gt=now) | _covered_but_for_silences(now)


def _covered_but_for_silences(now: datetime) -> Q:
    windows = MaintenanceWindow.objects.filter(starts_at__lte=now, ends_at__gt=now)
    of_cluster, of_node = windows.filter(cluster=OuterRef("cluster")), windows.filter(node=OuterRef("node"))
    return Q(parent__isnull=False) | Q(Exists(of_cluster)) | Q(Exists(of_node))


def _tell_firing(kind: str, channels: Sequence[Channel], now: datetime) -> int:
    untold = AlertEvent.objects.filter(rule__type=kind, status=EventStatus.FIRING, told_at=None, missing_since=None)
    news = _by_rule(untold.exclude(covered(now)))
    audiences = audiences_of([rule for rule, _ in news], channels)
    AlertEvent.objects.filter(pk__in=[event.pk for _, events in news for event in events]).update(told_at=now)
    return sum(
        _put(channel, rule, DeliveryKind.FIRING, [event for event in events if in_route(channel, event)], now)
        for rule, events in news
        for channel in audiences[rule.pk]
    )


def _tell_ends(kind: str, now: datetime) -> int:
    """Whoever was told that it fires, be it under a silence that was about to end, is told that it has ended."""
    resolved = AlertEvent.objects.filter(rule__type=kind, status=EventStatus.RESOLVED, end_told_at=None)
    # Two queries, since each has an index of its own and the two together would have none.
    ids = {
        *resolved.filter(told_at__isnull=False).values_list("pk", flat=True),
        *resolved.filter(deliveries__kind=DeliveryKind.SILENCE_ENDING).values_list("pk", flat=True),
    }
    news = _by_rule(resolved.filter(pk__in=ids)) if ids else []
    AlertEvent.objects.filter(pk__in=ids).update(end_told_at=now)
    knowing: dict[int, set[int]] = defaultdict(set)
    heard = Delivery.objects.filter(events__in=ids, channel__enabled=True).exclude(kind=DeliveryKind.RESOLVED)
    for channel_id, event_id in heard.values_list("channel_id", "events"):
        knowing[channel_id].add(event_id)
    listeners = Channel.objects.filter(pk__in=knowing).order_by("pk")
    return sum(
        _put(channel, rule, DeliveryKind.RESOLVED, [event for event in events if event.pk in knowing[channel.pk]], now)
        for channel in listeners
        for rule, events in news
    )


def _tell_silences_ending(kind: str, channels: Sequence[Channel], now: datetime) -> int:
    """A silence with something under it is spoken of before it ends, with what it has cost so far."""
    ending = AlertRule.objects.filter(
        type=kind,
        enabled=True,
        silenced_until__gt=now,
        silenced_until__lte=now + SILENCE_WARNING,
        silence_end_told_at=None,
    )
    told, rules = 0, list(ending.order_by("pk").select_for_update(no_key=True))
    audiences = audiences_of(rules, channels)
    for rule in rules:
        events = rule.events.filter(status=EventStatus.FIRING).exclude(_covered_but_for_silences(now))
        firing = sorted(events.select_related(*PLACES), key=_costliest_first)
        costs = silence_costs([rule], now=now)[rule.pk]
        for channel in audiences[rule.pk] if firing else []:
            about = [event for event in firing if in_route(channel, event)]
            told += _put(channel, rule, DeliveryKind.SILENCE_ENDING, about, now, costs)
        AlertRule.objects.filter(pk=rule.pk).update(silence_end_told_at=now)
    return told


def _by_rule(events: QuerySet[AlertEvent]) -> list[tuple[AlertRule, list[AlertEvent]]]:
    """The events, locked, of each rule; the costliest first."""
    locked = events.select_related("rule", *PLACES).select_for_update(of=("self",), no_key=True).order_by("pk")
    rules: dict[int, AlertRule] = {}
    groups: dict[int, list[AlertEvent]] = defaultdict(list)
    for event in locked:
        rules[event.rule_id] = event.rule
        groups[event.rule_id].append(event)
    return [(rules[pk], sorted(group, key=_costliest_first)) for pk, group in groups.items()]


def _costliest_first(event: AlertEvent) -> tuple[Decimal, int]:
    return -(event.cost_per_hour or Decimal()), event.pk


def audiences_of(rules: Sequence[AlertRule], channels: Sequence[Channel]) -> dict[int, list[Channel]]:
    """By rule the channels that it names, else those whose route takes its severity. One query."""
    named: dict[int, set[int]] = defaultdict(set)
    for rule_id, channel_id in AlertRule.channels.through.objects.filter(alertrule__in=rules).values_list(
        "alertrule_id", "channel_id"
    ):
        named[rule_id].add(channel_id)
    return {
        rule.pk: [
            channel
            for channel in channels
            if (channel.pk in named[rule.pk] if named[rule.pk] else _severe_enough(rule, channel))
        ]
        for rule in rules
    }


def _severe_enough(rule: AlertRule, channel: Channel) -> bool:
    if not channel.min_severity:
        return False
    return ASCENDING.index(Severity(rule.severity)) >= ASCENDING.index(Severity(channel.min_severity))


def in_route(channel: Channel, event: AlertEvent) -> bool:
    """Whether the channel's route takes incidents of this place."""
    return (
        channel.cluster_id in (None, event.cluster_id)
        and channel.tenant_id in (None, event.tenant_id)
        and channel.gpu_model in ("", event.gpu_model)
    )


def _put(
    channel: Channel,
    rule: AlertRule,
    kind: DeliveryKind,
    events: Sequence[AlertEvent],
    now: datetime,
    costs: Collection[tuple[Decimal, str]] = (),
) -> int:
    size = 1 if channel.kind == ChannelKind.PAGERDUTY else MOST_IN_ONE
    pieces = [events[start : start + size] for start in range(0, len(events), size)]
    for piece in pieces:
        letter: Letter = compose(rule, kind, piece, now=now, silence_costs=costs)
        delivery = Delivery.objects.create(
            channel=channel, rule=rule, kind=kind, body=letter, next_attempt_at=now, created_at=now
        )
        delivery.events.set(piece)
        logger.info("alert delivery queued", delivery=delivery.pk, channel_id=channel.pk, kind=kind, events=len(piece))
    return len(pieces)
