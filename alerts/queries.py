"""What the rules watch: for each type one set-based query that gives a reading of every subject, and the lists."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Avg, Count, Q, QuerySet

from alerts.conditions import Direction
from alerts.models import AlertEvent, AlertRule, EventStatus, RuleType
from clusters.models import GPU, GPUState
from gpufleet.common.errors import NotFound
from jobs.models import Allocation
from tenants.models import Tenant

READINGS_ARE_FRESH_FOR = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Reading:
    """A subject and its value now; ``None`` when there is no fresh data."""

    subject: str
    name: str
    value: float | None
    cluster_id: int | None = None
    tenant_id: int | None = None


@dataclass(frozen=True, slots=True)
class RuleKind:
    """What one type of rule watches: how its subjects are read, which side is trouble, and how it is said."""

    read: Callable[[datetime], list[Reading]]
    direction: Direction
    sentence: str


def read_job_utilization(now: datetime) -> list[Reading]:
    """Mean utilization in percent of the GPUs that each running job holds, of readings not older than 2 minutes."""
    fresh = Q(gpu__latest_reading__recorded_at__gt=now - READINGS_ARE_FRESH_FOR)
    rows = (
        Allocation.objects.filter(during__upper_inf=True)
        .values("job_id", "job__name", "job__cluster_id", "tenant_id")
        .annotate(value=Avg("gpu__latest_reading__utilization_pct", filter=fresh))
    )
    return [
        Reading(
            f"job:{row['job_id']}", f"job {row['job__name']}", row["value"], row["job__cluster_id"], row["tenant_id"]
        )
        for row in rows
    ]


def read_quota_use(now: datetime) -> list[Reading]:
    """GPUs held by each tenant in percent of its quota."""
    held = Count("allocations", filter=Q(allocations__during__upper_inf=True))
    rows = Tenant.objects.annotate(held=held).values_list("pk", "name", "gpu_quota", "held")
    return [
        Reading(f"tenant:{pk}", f"tenant {name}", 100 * held / quota, tenant_id=pk) for pk, name, quota, held in rows
    ]


def read_cluster_health(now: datetime) -> list[Reading]:
    """GPUs that are unhealthy or offline in percent of each cluster's GPUs."""
    broken = Count("pk", filter=Q(state__in=[GPUState.UNHEALTHY, GPUState.OFFLINE]))
    rows = (
        GPU.objects.filter(retired_at__isnull=True)
        .order_by()
        .values("node__cluster_id", "node__cluster__name")
        .annotate(broken=broken, total=Count("pk"))
    )
    return [
        Reading(
            f"cluster:{row['node__cluster_id']}",
            f"cluster {row['node__cluster__name']}",
            100 * row["broken"] / row["total"],
            cluster_id=row["node__cluster_id"],
        )
        for row in rows
    ]


KINDS: Mapping[str, RuleKind] = {
    RuleType.UTILIZATION_LOW: RuleKind(
        read_job_utilization, Direction.BELOW, "{name} uses {value:.0f} % of the GPUs it holds (below {threshold:g} %)."
    ),
    RuleType.QUOTA_BREACH: RuleKind(
        read_quota_use, Direction.AT_OR_ABOVE, "{name} holds {value:.0f} % of its GPU quota (limit {threshold:g} %)."
    ),
    RuleType.HEALTH_DEGRADED: RuleKind(
        read_cluster_health,
        Direction.AT_OR_ABOVE,
        "{value:.0f} % of the GPUs of {name} are unhealthy or offline (limit {threshold:g} %).",
    ),
}


def list_rules() -> QuerySet[AlertRule]:
    """All rules, built-in and added."""
    return AlertRule.objects.all()


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
