"""Telling: which incidents are news, to whom, in which words. Each message goes into the outbox in the transaction that
marks its incidents as told, so that nobody is told twice by one event, nor of one that does not exist.

What a silence, a maintenance window or a silent node covers is told when the cover ends, if it still fires then.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import structlog
from django.db import transaction
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
from gpufleet.common.locks import try_lock_name

logger = structlog.stdlib.get_logger(__name__)

# One message speaks of so many incidents of a rule at most. PagerDuty takes one an event, and groups for itself.
MOST_IN_ONE = 50
SILENCE_WARNING = timedelta(minutes=15)
ASCENDING = [Severity.INFO, Severity.WARNING, Severity.CRITICAL]


@transaction.atomic
def tell(*, now: datetime) -> int:
    """Put messages about what is new into the outbox. Returns how many; 0 while somebody else does it."""
    if not try_lock_name("alerts.tell"):
        return 0
    channels = list(Channel.objects.filter(enabled=True).order_by("pk"))
    return _tell_firing(channels, now) + _tell_ends(now) + _tell_silences_ending(channels, now)


def covered(now: datetime) -> Q:
    """The incidents of which nobody is to be told now: silenced, in maintenance, or explained by another."""
    windows = MaintenanceWindow.objects.filter(starts_at__lte=now, ends_at__gt=now)
    of_cluster, of_node = windows.filter(cluster=OuterRef("cluster")), windows.filter(node=OuterRef("node"))
    return Q(rule__silenced_until__gt=now) | Q(parent__isnull=False) | Q(Exists(of_cluster)) | Q(Exists(of_node))


def _tell_firing(channels: Sequence[Channel], now: datetime) -> int:
    fresh = AlertEvent.objects.filter(status=EventStatus.FIRING, told_at=None).exclude(covered(now))
    told = 0
    for rule, events in _by_rule(fresh):
        for channel in _audience(rule, channels):
            told += _put(channel, rule, DeliveryKind.FIRING, [e for e in events if _in_route(channel, e)], now)
        AlertEvent.objects.filter(pk__in=[event.pk for event in events]).update(told_at=now)
    return told


def _tell_ends(now: datetime) -> int:
    """Whoever was told that it fires is told that it has ended."""
    ended = AlertEvent.objects.filter(status=EventStatus.RESOLVED, told_at__isnull=False, end_told_at=None)
    told = 0
    for rule, events in _by_rule(ended):
        ids = [event.pk for event in events]
        knowing: dict[int, set[int]] = defaultdict(set)
        heard = Delivery.objects.filter(events__in=ids, kind=DeliveryKind.FIRING, channel__enabled=True)
        for channel_id, event_id in heard.values_list("channel_id", "events"):
            knowing[channel_id].add(event_id)
        for channel in Channel.objects.filter(pk__in=knowing).order_by("pk"):
            about = [event for event in events if event.pk in knowing[channel.pk]]
            told += _put(channel, rule, DeliveryKind.RESOLVED, about, now)
        AlertEvent.objects.filter(pk__in=ids).update(end_told_at=now)
    return told


def _tell_silences_ending(channels: Sequence[Channel], now: datetime) -> int:
    """A silence with something under it is spoken of before it ends, with what it has cost so far."""
    ending = AlertRule.objects.filter(
        enabled=True,
        silenced_until__gt=now,
        silenced_until__lte=now + SILENCE_WARNING,
        silence_end_told_at=None,
    )
    told = 0
    for rule in ending.order_by("pk").select_for_update(no_key=True):
        firing = list(rule.events.filter(status=EventStatus.FIRING).order_by("pk"))
        costs = silence_costs([rule], now=now)[rule.pk]
        for channel in _audience(rule, channels) if firing else []:
            about = [event for event in firing if _in_route(channel, event)]
            told += _put(channel, rule, DeliveryKind.SILENCE_ENDING, about, now, costs)
        AlertRule.objects.filter(pk=rule.pk).update(silence_end_told_at=now)
    return told


def _by_rule(events: QuerySet[AlertEvent]) -> Iterable[tuple[AlertRule, list[AlertEvent]]]:
    """The events, locked, of each rule; the costliest first."""
    locked = events.select_related("rule").select_for_update(of=("self",), no_key=True).order_by("pk")
    rules: dict[int, AlertRule] = {}
    groups: dict[int, list[AlertEvent]] = defaultdict(list)
    for event in locked:
        rules[event.rule_id] = event.rule
        groups[event.rule_id].append(event)
    return [(rules[pk], sorted(group, key=_costliest_first)) for pk, group in groups.items()]


def _costliest_first(event: AlertEvent) -> tuple[Decimal, int]:
    return -(event.cost_per_hour or Decimal()), event.pk


def _audience(rule: AlertRule, channels: Sequence[Channel]) -> list[Channel]:
    """The channels that the rule names, else those whose route takes its severity."""
    named = set(rule.channels.values_list("pk", flat=True))
    if named:
        return [channel for channel in channels if channel.pk in named]
    return [channel for channel in channels if channel.min_severity and _severe_enough(rule, channel)]


def _severe_enough(rule: AlertRule, channel: Channel) -> bool:
    return ASCENDING.index(Severity(rule.severity)) >= ASCENDING.index(Severity(channel.min_severity))


def _in_route(channel: Channel, event: AlertEvent) -> bool:
    return channel.cluster_id in (None, event.cluster_id) and channel.tenant_id in (None, event.tenant_id)


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
