"""/metrics: the house in Prometheus' text format. Few series, read from PostgreSQL at each scrape, so that any process
may answer; labels are states, statuses, severities and clusters, and never jobs, GPUs or tenants. Behind them stands
what django-prometheus counts of the requests, by view, method and status."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db.models import Count, Exists, Max, Min, OuterRef, Q, QuerySet, Sum
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from prometheus_client import REGISTRY, CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from alerts.models import AlertEvent, Channel, Delivery, DeliveryStatus, EventStatus, RuleEvaluation
from alerts.queries import unsold_per_hour
from billing.models import OutboxMessage, OutboxStatus
from clusters.models import GPU, LatestReading, Node
from clusters.queries import next_to_forward
from gpufleet.common.api import ApiViewSet
from jobs.models import Allocation, Job, JobStatus, SchedulerCycle
from tenants.permissions import READ_FLEET

# When a process began to count is no news, and doubles the series.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library is half typed

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
READINGS_ARE_FRESH_FOR = timedelta(minutes=2)

Labels = tuple[str, ...]


class MetricsViewSet(ApiViewSet):
    """What Prometheus scrapes, with a key that may read the fleet as its bearer token."""

    access = {"list": READ_FLEET}

    def get_permissions(self) -> list[BasePermission]:
        """Nobody is asked for a key where ``METRICS_OPEN`` is on."""
        return [] if settings.METRICS_OPEN else super().get_permissions()  # type: ignore[return-value]  # DRF's protocol

    @extend_schema(exclude=True)
    def list(self, request: Request) -> HttpResponse:
        """All of it, at this instant."""
        registry = CollectorRegistry()
        registry.register(House(timezone.now()))
        return HttpResponse(generate_latest(registry) + generate_latest(_framework()), content_type=CONTENT_TYPE)


def _framework() -> CollectorRegistry:
    """What django-prometheus counts of the requests: of this process, or of all that share a folder for it."""
    if not settings.PROMETHEUS_MULTIPROC_DIR:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library is half typed
    return registry


class House(Collector):
    """The families of one scrape. About twenty queries, each an aggregate."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every family, with a value for each state that there is."""
        yield from self._fleet()
        yield from self._queue()
        yield from self._ingest()
        yield from self._alerts()
        yield from self._money()

    def _fleet(self) -> Iterator[GaugeMetricFamily]:
        held = Exists(Allocation.objects.filter(gpu=OuterRef("pk"), during__upper_inf=True))
        gpus = GPU.objects.filter(retired_at__isnull=True).annotate(held=held).order_by()
        rows = gpus.values_list("node__cluster__name", "held", "state").annotate(gpus=Count("pk"))
        counts: dict[Labels, float] = {}
        for cluster, is_held, state, count in rows:
            labels = (cluster, "sold" if is_held else state)
            counts[labels] = counts.get(labels, 0) + count
        yield _family("gpufleet_gpus", "GPUs in service by what they do now.", ("cluster", "state"), counts)
        nodes = Node.objects.filter(decommissioned_at__isnull=True)
        yield _family("gpufleet_nodes", "Nodes in service.", ("status",), _counted(nodes, "status"))

    def _queue(self) -> Iterator[GaugeMetricFamily]:
        alive = Job.objects.filter(status__in=[JobStatus.QUEUED, JobStatus.BLOCKED, JobStatus.RUNNING])
        jobs: dict[Labels, float] = {
            (status,): 0.0 for status in (JobStatus.QUEUED, JobStatus.BLOCKED, JobStatus.RUNNING)
        }
        yield _family("gpufleet_jobs", "Jobs that have not ended.", ("status",), {**jobs, **_counted(alive, "status")})
        oldest = alive.filter(status=JobStatus.QUEUED).aggregate(at=Min("submitted_at"))["at"]
        waited = 0.0 if oldest is None else (self.now - oldest).total_seconds()
        yield _one("gpufleet_queue_oldest_seconds", "How long the oldest queued job has waited.", waited)
        cycle = SchedulerCycle.objects.first()
        if cycle is not None:
            finished = cycle.finished_at.timestamp()
            yield _one("gpufleet_scheduler_last_cycle_timestamp_seconds", "When a cycle last finished.", finished)
            yield _one("gpufleet_scheduler_cycle_seconds", "How long it took.", cycle.duration_ms / 1000)
            yield _one("gpufleet_scheduler_jobs_started", "Jobs that it started.", cycle.jobs_started)

    def _ingest(self) -> Iterator[GaugeMetricFamily]:
        found = LatestReading.objects.filter(gpu__retired_at__isnull=True).aggregate(
            newest=Max("recorded_at"), fresh=Count("pk", filter=Q(recorded_at__gt=self.now - READINGS_ARE_FRESH_FOR))
        )
        yield _one("gpufleet_gpus_with_fresh_readings", "GPUs that reported within 2 minutes.", found["fresh"])
        if found["newest"] is not None:
            newest = found["newest"].timestamp()
            yield _one("gpufleet_newest_reading_timestamp_seconds", "When the newest reading was taken.", newest)
        first = next_to_forward()
        behind = 0.0 if first is None else (self.now - first).total_seconds()
        yield _one("gpufleet_remote_write_behind_seconds", "Age of the sample that is forwarded next.", behind)

    def _alerts(self) -> Iterator[GaugeMetricFamily]:
        firing = AlertEvent.objects.filter(status=EventStatus.FIRING)
        by_type = _counted(firing, "rule__type", "rule__severity")
        yield _family("gpufleet_alerts_firing", "Incidents that fire.", ("type", "severity"), by_type)
        channels: dict[Labels, float] = {(name,): 0.0 for name in Channel.objects.values_list("name", flat=True)}
        for status in (DeliveryStatus.PENDING, DeliveryStatus.DEAD):
            counts = _counted(Delivery.objects.filter(status=status), "channel__name")
            text = f"Messages that are {DeliveryStatus(status).label.lower()}."
            yield _family(f"gpufleet_alert_deliveries_{status}", text, ("channel",), {**channels, **counts})
        rules = RuleEvaluation.objects.filter(rule__enabled=True).order_by()
        evaluated = rules.values_list("rule__type").annotate(at=Min("evaluated_at"))
        yield _family(
            "gpufleet_alert_evaluation_timestamp_seconds",
            "When the rule of a type that waited longest was evaluated.",
            ("type",),
            {(kind,): at.timestamp() for kind, at in evaluated},
        )

    def _money(self) -> Iterator[GaugeMetricFamily]:
        sold = Allocation.objects.filter(during__upper_inf=True)
        by_currency = (
            sold.exclude(currency="").order_by().values_list("currency").annotate(sum=Sum("price_per_gpu_hour"))
        )
        hourly: dict[Labels, float] = {(currency,): float(amount) for currency, amount in by_currency}
        yield _family("gpufleet_sold_per_hour", "What held GPUs bring an hour.", ("currency",), hourly)
        unsold = unsold_per_hour(now=self.now)
        yield _one("gpufleet_unsold_usd_per_hour", "List price of what is not sold, an hour.", unsold)
        unpriced = sold.filter(rate_id__isnull=True).count()
        yield _one("gpufleet_gpus_sold_without_price", "Held GPUs whose time can't be billed.", unpriced)
        steps: dict[Labels, float] = {(status,): 0.0 for status in (OutboxStatus.PENDING, OutboxStatus.DEAD)}
        steps |= _counted(OutboxMessage.objects.exclude(status=OutboxStatus.DONE), "status")
        yield _family("gpufleet_stripe_steps", "Steps that have not reached Stripe.", ("status",), steps)


def _counted(rows: QuerySet[Any], *fields: str) -> dict[Labels, float]:
    return {tuple(labels): count for *labels, count in rows.order_by().values_list(*fields).annotate(rows=Count("pk"))}


def _one(name: str, text: str, value: float | Decimal) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _family(name: str, text: str, labels: Iterable[str], values: dict[Labels, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for value_labels, value in sorted(values.items()):
        family.add_metric(list(map(str, value_labels)), value)
    return family
