"""What goes wrong with clusters, nodes and GPUs."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import ClassVar

from django.db.models import Count, Q

from alerts.models import RuleType
from alerts.types.base import AlertType, Place, Reading, id_in
from alerts.types.past import Points, Window, stepped
from alerts.types.prices import CURRENCY, list_prices, worth
from billing.queries import DEFAULT_CURRENCY, first_list_price
from clusters.models import GPU, ClusterStatus, GPUHealth, GPUState, GPUStatePeriod, Node, NodeIntent
from clusters.queries import mean_readings

READINGS_ARE_FRESH_FOR = timedelta(minutes=2)

# Every GPU for as long as it was in service, in its states.
REGISTERED = """
    SELECT 1::numeric AS amount, period.during
      FROM clusters_gpustateperiod AS period
      JOIN clusters_gpu AS gpu ON gpu.id = period.gpu_id
     WHERE period.during && %(touched)s AND {where}
"""
# A node's GPUs by model, or a cluster's: (id, GPU model, how many).
Counts = dict[int, list[tuple[str, int]]]


class NodeSilent(AlertType):
    """Seconds since a silent node's last heartbeat; 0 for a node that beats. Nodes in maintenance are left out, and
    those of clusters in maintenance."""

    code = RuleType.NODE_SILENT
    scopes = frozenset({"cluster"})
    sentence = "{name} has been silent for {value:.0f} s (limit {threshold:g} s)."
    figure = ("Silent for", "s")
    remedy = "Look at the node's power, network and agent. Its jobs have failed or will; its GPUs count as offline."

    def read(self, now: datetime) -> list[Reading]:
        """All nodes in service. Four queries."""
        nodes = Node.objects.filter(decommissioned_at__isnull=True).exclude(intent=NodeIntent.MAINTENANCE)
        nodes = nodes.exclude(cluster__status=ClusterStatus.MAINTENANCE)
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

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """Its GPUs are offline from the last heartbeat on. Two queries."""
        node_id = id_in(subject)
        offline = GPUStatePeriod.objects.filter(gpu__node_id=node_id, state=GPUState.OFFLINE)
        rows = offline.filter(during__overlap=window.touched).order_by().values_list("during", flat=True).distinct()
        silences: list[tuple[datetime, datetime | None]] = [(during.lower, during.upper) for during in rows]
        now_silent = Node.objects.filter(pk=node_id, silent=True).values_list("last_heartbeat_at", flat=True)
        silences += [(beat, None) for beat in now_silent]
        return [(at, _longest(silences, at).total_seconds()) for at in window.instants]


class GpuTemperature(AlertType):
    """The newest temperature of each GPU in service, of readings not older than 2 minutes."""

    code = RuleType.GPU_TEMPERATURE
    scopes = frozenset({"cluster", "gpu_model"})
    sentence = "{name} is at {value:.0f} °C (limit {threshold:g} °C)."
    figure = ("Temperature", "°C")
    remedy = "Check the node's fans and the room; drain the node, or the GPU is out of service until it cools down."

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

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """Means of a step, or of hours where the samples are gone. Two or three queries."""
        gpus = GPU.objects.filter(pk=id_in(subject)).values_list("pk", "node_id")
        asked = [(pk, node_id, window.start, window.end) for pk, node_id in gpus]
        return mean_readings("temperature", asked, width=window.step)


class HealthDegraded(AlertType):
    """GPUs that are unhealthy or offline in percent of each cluster's GPUs."""

    code = RuleType.HEALTH_DEGRADED
    scopes = frozenset({"cluster"})
    sentence = "{value:.0f} % of the GPUs of {name} are unhealthy or offline (limit {threshold:g} %)."
    figure = ("Unhealthy or offline", "% of the GPUs")
    remedy = "The list of GPUs with state unhealthy or offline says which and why; repair or retire them."
    explained_by = RuleType.NODE_SILENT
    broken: ClassVar = Q(state__in=[GPUState.UNHEALTHY, GPUState.OFFLINE])

    def read(self, now: datetime) -> list[Reading]:
        """All clusters that have GPUs. Four queries."""
        rows = self._shares(self.broken)
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

    def without(self, nodes: Collection[int], now: datetime) -> Mapping[str, float]:
        """As if these nodes were back: their GPUs that are not ill besides count as well. One query."""
        back = Q(state=GPUState.OFFLINE, health=GPUHealth.HEALTHY, node__in=nodes)
        return {f"cluster:{pk}": 100 * ill / total for pk, _, ill, total in self._shares(self.broken & ~back)}

    def _shares(self, bad: Q) -> Iterable[tuple[int, str, int, int]]:
        """Id and name of each cluster, how many of its GPUs are bad, and how many there are."""
        rows = GPU.objects.filter(retired_at__isnull=True).order_by()
        of_cluster = rows.values_list("node__cluster_id", "node__cluster__name")
        return of_cluster.annotate(bad=Count("pk", filter=bad), total=Count("pk"))

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """Of the GPUs in service at the time. Two queries."""
        cluster = {"cluster": id_in(subject)}
        of_cluster = "gpu.node_id IN (SELECT id FROM clusters_node WHERE cluster_id = %(cluster)s)"
        totals = stepped(REGISTERED.format(where=of_cluster), cluster, window)
        bad = stepped(
            REGISTERED.format(where=f"{of_cluster} AND period.state IN ('unhealthy', 'offline')"), cluster, window
        )
        rows = zip(window.instants, bad, totals, strict=True)
        return [(at, float(100 * broken / total)) for at, broken, total in rows if total]


class UnpricedGpu(AlertType):
    """How many GPUs in service there are of each model without a list price. What runs on them is sold for nothing."""

    code = RuleType.UNPRICED_GPU
    figure = ("Unpriced", "GPUs")
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

    def past(self, subject: str, place: Place, window: Window) -> Points:
        """All of the model in service, until it had its first price. Two queries."""
        priced_from = first_list_price(place.gpu_model)
        counts = stepped(REGISTERED.format(where="gpu.model = %(model)s"), {"model": place.gpu_model}, window)
        return [
            (at, 0.0 if priced_from is not None and priced_from <= at else float(count))
            for at, count in zip(window.instants, counts, strict=True)
        ]


def _longest(silences: Iterable[tuple[datetime, datetime | None]], at: datetime) -> timedelta:
    """For how long it has been silent at an instant; nothing outside of silences."""
    now_in = [at - begin for begin, end in silences if begin <= at and (end is None or at < end)]
    return max(now_in, default=timedelta())


def _count(condition: Q, *, by: str) -> Counts:
    rows = GPU.objects.filter(condition, retired_at__isnull=True).order_by().values_list(by, "model")
    counts: Counts = defaultdict(list)
    for key, model, gpus in rows.annotate(gpus=Count("pk")):
        counts[key].append((model, gpus))
    return counts
