"""Shapes of clusters, nodes, GPUs and their metrics on the wire."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema_field
from rest_framework import serializers

from clusters.models import ClusterStatus, GPUHealth, GPUState, HealthCause, NodeIntent, NodeStatus, OnNodeLoss
from clusters.queries import STEPS, Series
from clusters.series import SCALES, Buckets
from clusters.telemetry import MAX_SAMPLES
from gpufleet.common.serializers import IdField, InstantField, StrictSerializer

MAX_SLOTS = 256
MAX_INDEX = 1023
LARGEST_INT = 2**31 - 1
HOSTNAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z"
WRITABLE_STATUS = {
    "online": NodeIntent.ACTIVE,
    "draining": NodeIntent.DRAINING,
    "maintenance": NodeIntent.MAINTENANCE,
}


MAX_SECONDS = 30 * 24 * 3600


class ClusterInputSerializer(StrictSerializer):
    """A new cluster."""

    name = serializers.CharField(max_length=200)
    region = serializers.CharField(max_length=100, allow_blank=True, required=False)


class ClusterChangesSerializer(StrictSerializer):
    """Changes to a cluster; what is left out stays."""

    name = serializers.CharField(max_length=200, required=False)
    region = serializers.CharField(max_length=100, allow_blank=True, required=False)
    status = serializers.ChoiceField(choices=ClusterStatus.choices, required=False)
    on_node_loss = serializers.ChoiceField(choices=OnNodeLoss.choices, required=False)
    enforce_time_limit = serializers.BooleanField(required=False)
    preemption = serializers.BooleanField(
        required=False, help_text="Jobs of lower priority, and those on borrowed quota, may be preempted."
    )
    preemption_grace_s = serializers.IntegerField(
        min_value=0, max_value=MAX_SECONDS, required=False, help_text="From the notice of a preemption to the end."
    )
    preemption_min_run_s = serializers.IntegerField(
        min_value=0, max_value=MAX_SECONDS, required=False, help_text="A job runs for so long undisturbed."
    )
    execution_enabled = serializers.BooleanField(required=False)


class NodeInputSerializer(StrictSerializer):
    """A node's registration or heartbeat."""

    cluster_id = IdField()
    hostname = serializers.RegexField(HOSTNAME, max_length=253)
    ip_address = serializers.IPAddressField(allow_null=True, required=False)
    total_gpus = serializers.IntegerField(min_value=0, max_value=MAX_INDEX + 1, required=False)
    cpu_cores = serializers.IntegerField(min_value=0, max_value=LARGEST_INT, allow_null=True, required=False)
    ram_gb = serializers.IntegerField(min_value=0, max_value=LARGEST_INT, allow_null=True, required=False)


class NodeChangesSerializer(StrictSerializer):
    """What an operator wants of a node: online (resume), draining (takes nothing new) or maintenance."""

    status = serializers.ChoiceField(choices=list(WRITABLE_STATUS), required=False)
    reason = serializers.CharField(max_length=500, allow_blank=True, required=False)


class GpuInputSerializer(StrictSerializer):
    """One GPU of a node."""

    gpu_index = serializers.IntegerField(
        min_value=0, max_value=MAX_INDEX, required=False, help_text="Default: its place in the array."
    )
    model = serializers.CharField(max_length=100, required=False)
    vram_mb = serializers.IntegerField(min_value=0, max_value=LARGEST_INT, allow_null=True, required=False)
    uuid = serializers.CharField(max_length=64, allow_blank=True, required=False)
    pci_bus_id = serializers.CharField(max_length=32, allow_blank=True, required=False)


class GpusInputSerializer(StrictSerializer):
    """The GPUs of a node."""

    node_id = IdField()
    gpus = serializers.ListField(
        child=GpuInputSerializer(),
        max_length=MAX_SLOTS,
        help_text="1 or more; none from a node whose total_gpus is 0: all that it had have vanished.",
    )


class GpuChangesSerializer(StrictSerializer):
    """An operator's word on a GPU's health."""

    health = serializers.ChoiceField(choices=GPUHealth.choices)
    health_reason = serializers.CharField(max_length=500, allow_blank=True, required=False)
    fault_id = IdField(required=False, help_text="The fault that this is about: 409 when it is over.")


class RetirementSerializer(StrictSerializer):
    """Why a GPU is gone for good."""

    reason = serializers.CharField(max_length=400)


class ClusterSerializer(serializers.Serializer[Any]):
    """A cluster as it is shown, made of a ``ClusterReport``."""

    id = serializers.IntegerField(source="cluster.pk")
    name = serializers.CharField(source="cluster.name")
    region = serializers.CharField(source="cluster.region", allow_blank=True)
    status = serializers.ChoiceField(source="cluster.status", choices=ClusterStatus.choices)
    on_node_loss = serializers.ChoiceField(source="cluster.on_node_loss", choices=OnNodeLoss.choices)
    enforce_time_limit = serializers.BooleanField(source="cluster.enforce_time_limit")
    preemption = serializers.BooleanField(source="cluster.preemption")
    preemption_grace_s = serializers.IntegerField(source="cluster.preemption_grace_s")
    preemption_min_run_s = serializers.IntegerField(source="cluster.preemption_min_run_s")
    execution_enabled = serializers.BooleanField(
        source="cluster.execution_enabled", help_text="Agents that execute may run the jobs' commands and images."
    )
    node_count = serializers.IntegerField(source="cluster.node_count")
    gpu_count = serializers.IntegerField(source="cluster.gpu_count")
    idle_gpus = serializers.IntegerField(source="cluster.idle_gpus", help_text="Available, and held by no job.")
    active_jobs = serializers.IntegerField(source="workload.active_jobs", help_text="Jobs that run.")
    queued_jobs = serializers.IntegerField(source="workload.queued_jobs", help_text="Jobs that wait.")
    created_at = serializers.DateTimeField(source="cluster.created_at")


class NewClusterSerializer(ClusterSerializer):
    """A cluster in the one answer that holds its key."""

    api_key = serializers.CharField(help_text="For the node agents; shown this once.", allow_null=True)


class NodeSerializer(serializers.Serializer[Any]):
    """A node as it is shown."""

    id = serializers.IntegerField(source="pk")
    cluster_id = serializers.IntegerField()
    hostname = serializers.CharField()
    ip_address = serializers.IPAddressField(allow_null=True)
    total_gpus = serializers.IntegerField(help_text="As the agent says.")
    gpu_count = serializers.IntegerField(help_text="Registered and in service.")
    cpu_cores = serializers.IntegerField(allow_null=True)
    ram_gb = serializers.IntegerField(allow_null=True)
    status = serializers.ChoiceField(choices=NodeStatus.choices)
    reason = serializers.CharField(source="intent_reason", allow_blank=True)
    last_heartbeat_at = serializers.DateTimeField()
    created_at = serializers.DateTimeField()


class ClusterDetailSerializer(ClusterSerializer):
    """A cluster with its nodes and its most recent jobs."""

    nodes = NodeSerializer(many=True)
    jobs = serializers.ListField(
        child=serializers.DictField(), help_text="The 20 most recent jobs, newest first, as /api/jobs shows them."
    )


class ReadingSerializer(serializers.Serializer[Any]):
    """One sample of a GPU; null: not measured."""

    recorded_at = serializers.DateTimeField()
    utilization_pct = serializers.FloatField(allow_null=True)
    memory_used_mb = serializers.IntegerField(allow_null=True)
    memory_total_mb = serializers.IntegerField(allow_null=True)
    temperature_c = serializers.FloatField(allow_null=True)
    power_draw_w = serializers.FloatField(allow_null=True)
    xid = serializers.IntegerField(allow_null=True)


class HolderSerializer(serializers.Serializer[Any]):
    """The job that holds a GPU."""

    id = serializers.IntegerField(source="job_id")
    name = serializers.CharField(source="job_name")
    tenant_id = serializers.IntegerField(allow_null=True)
    since = serializers.DateTimeField()


class RegisteredGpuSerializer(serializers.Serializer[Any]):
    """A GPU as its registration answers it."""

    id = serializers.IntegerField(source="pk")
    node_id = serializers.IntegerField()
    gpu_index = serializers.IntegerField()
    model = serializers.CharField(allow_blank=True)
    vram_mb = serializers.IntegerField(allow_null=True)
    uuid = serializers.CharField(allow_blank=True)
    pci_bus_id = serializers.CharField(allow_blank=True)
    state = serializers.ChoiceField(choices=GPUState.choices)
    registered_at = serializers.DateTimeField()


class FaultSerializer(serializers.Serializer[Any]):
    """A session of ill health."""

    id = serializers.IntegerField()
    cause = serializers.ChoiceField(choices=HealthCause.choices)
    reason = serializers.CharField(allow_blank=True)
    began_at = serializers.DateTimeField()


class GpuSerializer(serializers.Serializer[Any]):
    """A GPU as it is shown, made of a ``GpuReport``."""

    id = serializers.IntegerField(source="gpu.pk")
    cluster_id = serializers.IntegerField(source="gpu.node.cluster_id")
    node_id = serializers.IntegerField(source="gpu.node_id")
    hostname = serializers.CharField(source="gpu.node.hostname")
    gpu_index = serializers.IntegerField(source="gpu.gpu_index")
    model = serializers.CharField(source="gpu.model", allow_blank=True)
    vram_mb = serializers.IntegerField(source="gpu.vram_mb", allow_null=True)
    uuid = serializers.CharField(source="gpu.uuid", allow_blank=True)
    pci_bus_id = serializers.CharField(source="gpu.pci_bus_id", allow_blank=True)
    state = serializers.ChoiceField(source="gpu.state", choices=GPUState.choices)
    health = serializers.ChoiceField(source="gpu.health", choices=GPUHealth.choices)
    health_reason = serializers.CharField(source="gpu.health_reason", allow_blank=True)
    fault = FaultSerializer(allow_null=True, help_text="The session that keeps it unhealthy.")
    latest_metrics = ReadingSerializer(source="latest", allow_null=True)
    job = HolderSerializer(source="holder", allow_null=True)
    registered_at = serializers.DateTimeField(source="gpu.registered_at")
    retired_at = serializers.DateTimeField(source="gpu.retired_at", allow_null=True)
    retired_reason = serializers.CharField(source="gpu.retired_reason", allow_blank=True)


class SampleInputSerializer(StrictSerializer):
    """One sample, for the OpenAPI document; the checks themselves are ``telemetry``'s."""

    gpu_id = IdField()
    utilization_pct = serializers.FloatField(min_value=0, max_value=100, allow_null=True, required=False)
    memory_used_mb = serializers.FloatField(min_value=0, max_value=LARGEST_INT, allow_null=True, required=False)
    memory_total_mb = serializers.FloatField(min_value=0, max_value=LARGEST_INT, allow_null=True, required=False)
    temperature_c = serializers.FloatField(min_value=-100, max_value=300, allow_null=True, required=False)
    power_draw_w = serializers.FloatField(min_value=0, max_value=100_000, allow_null=True, required=False)
    xid = serializers.IntegerField(
        min_value=0, max_value=LARGEST_INT, allow_null=True, required=False, help_text="NVIDIA's error number."
    )
    recorded_at = InstantField(
        allow_null=True,
        required=False,
        help_text="Default now; up to 24 hours old, at most 60 seconds in the future.",
    )


class MetricsInputSerializer(StrictSerializer):
    """A batch of samples."""

    metrics = serializers.ListField(child=SampleInputSerializer(), min_length=1, max_length=MAX_SAMPLES)


class AcceptedSerializer(serializers.Serializer[Any]):
    """How many samples are durable."""

    accepted = serializers.IntegerField()


class SpreadSerializer(serializers.Serializer[Any]):
    """What the samples of one bucket say of one figure; null where none measured it."""

    count = serializers.IntegerField(help_text="Samples that measured it.")
    avg = serializers.FloatField(allow_null=True)
    min = serializers.FloatField(allow_null=True)
    max = serializers.FloatField(allow_null=True)
    last = serializers.FloatField(allow_null=True)


class BucketSerializer(serializers.Serializer[Any]):
    """The samples of one step, counted once each."""

    start = serializers.DateTimeField()
    samples = serializers.IntegerField()
    utilization_pct = SpreadSerializer()
    memory_used_mb = SpreadSerializer()
    memory_total_mb = SpreadSerializer()
    temperature_c = SpreadSerializer()
    power_draw_w = SpreadSerializer()


class SeriesSerializer(serializers.Serializer[Any]):
    """A GPU's window, oldest first: its samples where ``step`` is raw, else one bucket a step that has samples."""

    gpu_id = serializers.IntegerField()
    to = serializers.DateTimeField()
    step = serializers.ChoiceField(choices=list(STEPS))
    points = serializers.SerializerMethodField()

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """``from`` is a word of Python's own, so it can't stand in the class."""
        start = serializers.DateTimeField(help_text="A tenant's window begins with its allocation.")
        return {"from": start, **super().get_fields()}

    @extend_schema_field(
        PolymorphicProxySerializer(
            component_name="MetricPoint",
            serializers=[ReadingSerializer, BucketSerializer],
            resource_type_field_name=None,
            many=True,
        )
    )
    def get_points(self, series: Any) -> None:
        """For the OpenAPI document; ``stream_series`` writes them."""


NAMES = {
    "utilization": "utilization_pct",
    "memory_used": "memory_used_mb",
    "memory_total": "memory_total_mb",
    "temperature": "temperature_c",
    "power": "power_draw_w",
}
FIGURES = [(NAMES[field], scale) for field, scale in SCALES.items()]
POINTS_A_PIECE = 500


def stream_series(series: Series) -> Iterator[bytes]:
    """The answer in pieces of some hundred points, in ``SeriesSerializer``'s shape.

    Ninety days of hours are 2,160 buckets of 25 figures each, for which serializer fields would take most of the time.
    """
    head = {"gpu_id": series.gpu_id, "from": _instant(series.start), "to": _instant(series.end), "step": series.step}
    yield msgspec.json.encode(head)[:-1] + b',"points":['
    points: Iterator[Any] = map(_reading, series.readings) if series.step == "raw" else _points(series.buckets)
    lead = b""
    while piece := list(itertools.islice(points, POINTS_A_PIECE)):
        yield lead + msgspec.json.encode(piece)[1:-1]
        lead = b","
    yield b"]}"


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _reading(row: tuple[Any, ...]) -> dict[str, Any]:
    at, *figures, xid = row
    scaled = {
        name: figure if figure is None or scale == 1 else figure / scale
        for (name, scale), figure in zip(FIGURES, figures, strict=True)
    }
    return {"recorded_at": _instant(at), **scaled, "xid": xid}


class _Spread(msgspec.Struct, gc=False):
    count: int
    avg: float | None
    min: float | None
    max: float | None
    last: float | None


class _Point(msgspec.Struct):
    start: str
    samples: int
    utilization_pct: _Spread
    memory_used_mb: _Spread
    memory_total_mb: _Spread
    temperature_c: _Spread
    power_draw_w: _Spread


def _points(buckets: Buckets) -> Iterator[_Point]:
    spreads = [_spreads(columns, scale) for columns, scale in zip(buckets.spreads, SCALES.values(), strict=True)]
    starts = (f"{start}.000000Z" for start in buckets.starts)
    return map(_Point, starts, buckets.samples, *spreads)


def _spreads(columns: list[list[Any]], scale: int) -> Iterator[_Spread]:
    counts, least, greatest, totals, lasts = columns
    averages = [total / (count * scale) if count else None for count, total in zip(counts, totals, strict=True)]
    bounds = [[None if value is None else value / scale for value in column] for column in (least, greatest, lasts)]
    return map(_Spread, counts, averages, *bounds)
