"""What goes wrong with clusters, nodes and GPUs."""

from collections import defaultdict
from datetime import datetime, timedelta
from typing import ClassVar

from django.db.models import Count, Q

from alerts.models import RuleType
from alerts.types.base import AlertType, Place, Reading
from alerts.types.prices import CURRENCY, list_prices, worth
from billing.queries import DEFAULT_CURRENCY
from clusters.models import GPU, GPUState, Node, NodeIntent

READINGS_ARE_FRESH_FOR = timedelta(minutes=2)

# A node's GPUs by model, or a cluster's: (id, GPU model, how many).
Counts = dict[int, list[tuple[str, int]]]


class NodeSilent(AlertType):
    """Seconds since a silent node's last heartbeat; 0 for a node that beats. Nodes in maintenance are left out."""

    code = RuleType.NODE_SILENT
    scopes = frozenset({"cluster"})
    sentence = "{name} has been silent for {value:.0f} s (limit {threshold:g} s)."
    remedy = "Look at the node's power, network and agent. Its jobs have failed or will; its GPUs count as offline."

    def read(self, now: datetime) -> list[Reading]:
        """All nodes in service. Four queries."""
        nodes = Node.objects.filter(decommissioned_at__isnull=True).exclude(intent=NodeIntent.MAINTENANCE)
        rows = nodes.values_list("pk", "hostname", "cluster_id", "silent", "last_heartbeat_at")
        counts, prices = _count(Q(node__silent=True), by="node_id"), list_prices(now)
        return [
            Reading(
                f"node:{pk}",
                f"node {hostname}",
                max((now - beat).total_seconds(), 0.0) if silent else 0.0,
                Place(cluster_id, node_id=pk),
                worth(prices, counts.get(pk, [])),
                CURRENCY,
            )
            for pk, hostname, cluster_id, silent, beat in rows
        ]


class GpuTemperature(AlertType):
    """The newest temperature of each GPU in service, of readings not older than 2 minutes."""

    code = RuleType.GPU_TEMPERATURE
    scopes = frozenset({"cluster", "gpu_model"})
    sentence = "{name} is at {value:.0f} °C (limit {threshold:g} °C)."
    remedy = "Check the node's fans and the room; drain the node before the GPU throttles or is taken out of service."

    def read(self, now: datetime) -> list[Reading]:
        """All GPUs in service. Three queries."""
        rows = GPU.objects.filter(retired_at__isnull=True).values_list(
            "pk",
            "gpu_index",
            "model",
            "node_id",
            "node__hostname",
            "node__cluster_id",
            "latest_reading__temperature_c",
            "latest_reading__recorded_at",
        )
        prices, oldest = list_prices(now), now - READINGS_ARE_FRESH_FOR
        return [
            Reading(
                f"gpu:{pk}",
                f"GPU {index} of {hostname}",
                celsius if recorded_at is not None and recorded_at > oldest else None,
                Place(cluster_id, node_id, gpu_model=model),
                prices.get(model),
                CURRENCY,
            )
            for pk, index, model, node_id, hostname, cluster_id, celsius, recorded_at in rows.order_by()
        ]


class HealthDegraded(AlertType):
    """GPUs that are unhealthy or offline in percent of each cluster's GPUs."""

    code = RuleType.HEALTH_DEGRADED
    scopes = frozenset({"cluster"})
    sentence = "{value:.0f} % of the GPUs of {name} are unhealthy or offline (limit {threshold:g} %)."
    remedy = "The list of GPUs with state unhealthy or offline says which and why; repair or retire them."
    broken: ClassVar = Q(state__in=[GPUState.UNHEALTHY, GPUState.OFFLINE])

    def read(self, now: datetime) -> list[Reading]:
        """All clusters that have GPUs. Four queries."""
        rows = (
            GPU.objects.filter(retired_at__isnull=True)
            .order_by()
            .values_list("node__cluster_id", "node__cluster__name")
            .annotate(broken=Count("pk", filter=self.broken), total=Count("pk"))
        )
        counts, prices = _count(self.broken, by="node__cluster_id"), list_prices(now)
        return [
            Reading(
                f"cluster:{pk}",
                f"cluster {name}",
                100 * broken / total,
                Place(pk),
                worth(prices, counts.get(pk, [])),
                CURRENCY,
            )
            for pk, name, broken, total in rows
        ]


class UnpricedGpu(AlertType):
    """How many GPUs in service there are of each model without a list price. What runs on them is sold for nothing."""

    code = RuleType.UNPRICED_GPU
    scopes = frozenset({"gpu_model"})
    sentence = "{name} has no list price: {value:.0f} GPUs in service can't be billed by it."
    remedy = f"Add a {DEFAULT_CURRENCY} list price for the model (POST /api/billing/rates, or Rates in the console)."

    def read(self, now: datetime) -> list[Reading]:
        """All models in service; 0 for those with a price. Three queries."""
        rows = GPU.objects.filter(retired_at__isnull=True).order_by("model").values_list("model")
        prices = list_prices(now)
        return [
            Reading(
                f"gpu_model:{model}",
                f"GPU model {model or '(unnamed)'}",
                0.0 if model in prices else float(count),
                Place(gpu_model=model),
            )
            for model, count in rows.annotate(gpus=Count("pk"))
        ]


def _count(condition: Q, *, by: str) -> Counts:
    rows = GPU.objects.filter(condition, retired_at__isnull=True).order_by().values_list(by, "model")
    counts: Counts = defaultdict(list)
    for key, model, gpus in rows.annotate(gpus=Count("pk")):
        counts[key].append((model, gpus))
    return counts
