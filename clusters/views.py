"""The routes of clusters, nodes, GPUs and metrics: each calls one service or query and translates."""

from datetime import datetime
from typing import Any

from django.http import StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from clusters import queries, services
from clusters.filters import ClusterFilter, GpuFilter, NodeFilter
from clusters.models import GPU, Cluster, GPUHealth, Node
from clusters.serializers import (
    WRITABLE_STATUS,
    AcceptedSerializer,
    ClusterChangesSerializer,
    ClusterDetailSerializer,
    ClusterInputSerializer,
    ClusterSerializer,
    GpuChangesSerializer,
    GpuSerializer,
    GpusInputSerializer,
    MetricsInputSerializer,
    NewClusterSerializer,
    NodeChangesSerializer,
    NodeInputSerializer,
    NodeSerializer,
    RegisteredGpuSerializer,
    RetirementSerializer,
    SeriesSerializer,
    stream_series,
)
from gpufleet.common.api import ApiViewSet
from gpufleet.common.errors import FieldProblem, InvalidInput
from gpufleet.common.idempotency import idempotent
from gpufleet.common.parsing import PackedJSONParser
from gpufleet.common.query import parse_time
from gpufleet.common.serializers import checked_body
from tenants.permissions import ADMIN, READ, REPORT, WRITE_FLEET, caller_of


class ClusterViewSet(ApiViewSet):
    """Clusters. The inventory is shared; a tenant-bound key sees its own jobs in it, and no others."""

    queryset = Cluster.objects.none()
    serializer_class = ClusterSerializer
    filterset_class = ClusterFilter
    access = {"list": READ, "retrieve": READ, "create": ADMIN, "partial_update": ADMIN, "destroy": ADMIN}

    def list(self, request: Request) -> Response:
        """All clusters in service, newest first."""
        page = self.paginate_queryset(self.filter_queryset(queries.list_clusters())) or []
        reports = queries.describe_clusters(page, caller_of(request))
        return self.get_paginated_response(ClusterSerializer(reports, many=True).data)

    @extend_schema(responses=ClusterDetailSerializer)
    def retrieve(self, request: Request, pk: str) -> Response:
        """One cluster, with its nodes and its 20 most recent jobs."""
        detail = queries.get_cluster_detail(int(pk), caller_of(request))
        nodes = NodeSerializer(detail.nodes, many=True).data
        return Response({**ClusterSerializer(detail.report).data, "nodes": nodes, "jobs": detail.jobs})

    @extend_schema(request=ClusterInputSerializer, responses={201: NewClusterSerializer})
    @idempotent(secret_fields=("api_key",))
    def create(self, request: Request) -> Response:
        """Add a cluster. The answer holds the key of its node agents, this once. A name that is taken is a 409."""
        values = checked_body(ClusterInputSerializer, request)
        caller = caller_of(request)
        created = services.create_cluster(**values, actor=caller.actor, now=timezone.now())
        report = queries.get_cluster(created.cluster.pk, caller)
        return Response({**ClusterSerializer(report).data, "api_key": created.api_key}, status=201)

    @extend_schema(request=ClusterChangesSerializer, responses=ClusterSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Rename or move a cluster, put it in maintenance or back."""
        changes: Any = checked_body(ClusterChangesSerializer, request)
        services.update_cluster(cluster_id=int(pk), changes=changes, now=timezone.now())
        return Response(ClusterSerializer(queries.get_cluster(int(pk), caller_of(request))).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Decommission a cluster and its hardware, for good. 409 while a job runs on it."""
        services.decommission_cluster(cluster_id=int(pk), now=timezone.now())
        return Response(status=204)


class NodeViewSet(ApiViewSet):
    """Nodes. A tenant-bound key sees those that its running jobs hold now."""

    queryset = Node.objects.none()
    serializer_class = NodeSerializer
    filterset_class = NodeFilter
    access = {"list": READ, "retrieve": READ, "create": REPORT, "partial_update": WRITE_FLEET}

    def list(self, request: Request) -> Response:
        """All nodes in service, newest first."""
        page = self.paginate_queryset(self.filter_queryset(queries.list_nodes(caller_of(request)))) or []
        return self.get_paginated_response(NodeSerializer(page, many=True).data)

    def retrieve(self, request: Request, pk: str) -> Response:
        """One node."""
        return Response(NodeSerializer(queries.get_node(int(pk), caller_of(request))).data)

    @extend_schema(
        request=NodeInputSerializer,
        responses={201: NodeSerializer, 200: NodeSerializer},
        description="201: the node is new. 200: the hostname is known; it was a heartbeat, and only the fields that "
        "were sent are updated. A hostname of another cluster is a 409.",
    )
    @idempotent()
    def create(self, request: Request) -> Response:
        """Register a node, or send its heartbeat."""
        fields: Any = checked_body(NodeInputSerializer, request)
        registration = services.register_node(
            cluster_id=fields.pop("cluster_id"),
            hostname=fields.pop("hostname"),
            fields=fields,
            now=timezone.now(),
            cluster_key_id=_cluster_key(request),
        )
        node = queries.get_node(registration.node.pk, caller_of(request))
        return Response(NodeSerializer(node).data, status=201 if registration.created else 200)

    @extend_schema(request=NodeChangesSerializer, responses=NodeSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Cordon and drain a node, put it in maintenance, or resume it (online). What runs on it goes on."""
        values = checked_body(NodeChangesSerializer, request)
        intent = WRITABLE_STATUS.get(values.get("status", ""))
        services.update_node(node_id=int(pk), intent=intent, reason=values.get("reason"), now=timezone.now())
        return Response(NodeSerializer(queries.get_node(int(pk), caller_of(request))).data)


class GpuViewSet(ApiViewSet):
    """GPUs. A tenant-bound key sees those that its running jobs hold now."""

    queryset = GPU.objects.none()
    serializer_class = GpuSerializer
    filterset_class = GpuFilter
    access = {
        "list": READ,
        "retrieve": READ,
        "create": REPORT,
        "partial_update": WRITE_FLEET,
        "retire": ADMIN,
        "metrics": READ,
    }
    action_parameters = {"metrics": ("from", "to", "step")}

    def list(self, request: Request) -> Response:
        """All GPUs in service, newest first, with their latest metrics and the jobs that hold them."""
        caller = caller_of(request)
        page = self.paginate_queryset(self.filter_queryset(queries.list_gpus(caller))) or []
        return self.get_paginated_response(GpuSerializer(queries.describe_gpus(page, caller), many=True).data)

    def retrieve(self, request: Request, pk: str) -> Response:
        """One GPU, also one that was retired."""
        return Response(GpuSerializer(queries.get_gpu(int(pk), caller_of(request))).data)

    @extend_schema(
        request=GpusInputSerializer,
        responses={201: RegisteredGpuSerializer(many=True), 200: RegisteredGpuSerializer(many=True)},
        description="Idempotent by (node, gpu_index): 201 when one of them is new, else 200; of a known GPU only the "
        "fields that were sent are updated. Another uuid in a slot is another GPU, and the old one is retired; so is "
        "one that another slot or node of the cluster has in service under a uuid that is named here. As many "
        "as the node's total_gpus are all that it has: those in service that are not named have vanished, and are "
        "unhealthy until they are named again. An empty array says so of all, and is taken where total_gpus is 0. "
        "Answers the GPUs in the order in which they were sent.",
    )
    @idempotent()
    def create(self, request: Request) -> Response:
        """Register the GPUs of a node."""
        values = checked_body(GpusInputSerializer, request)
        registration = services.register_gpus(**values, now=timezone.now(), cluster_key_id=_cluster_key(request))
        data = RegisteredGpuSerializer(registration.gpus, many=True).data
        return Response(data, status=201 if registration.created else 200)

    @extend_schema(request=GpuChangesSerializer, responses=GpuSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Mark a GPU healthy or unhealthy. Readings do not overrule "unhealthy"."""
        values = checked_body(GpuChangesSerializer, request)
        services.mark_health(
            gpu_id=int(pk),
            health=GPUHealth(values["health"]),
            reason=values.get("health_reason", ""),
            now=timezone.now(),
            fault_id=values.get("fault_id"),
        )
        return Response(GpuSerializer(queries.get_gpu(int(pk), caller_of(request))).data)

    @extend_schema(request=RetirementSerializer, responses=GpuSerializer)
    @action(detail=True, methods=["post"], filterset_class=None, pagination_class=None)
    @idempotent()
    def retire(self, request: Request, pk: str) -> Response:
        """Take a GPU that is gone for good out of service: its time ends, its history stays. 409 while a job holds it.
        One that is retired already stays as it is. A card that its agent registers again is another GPU from then on.
        """
        values = checked_body(RetirementSerializer, request)
        caller = caller_of(request)
        services.retire_gpu(gpu_id=int(pk), reason=values["reason"], actor=caller.actor, now=timezone.now())
        return Response(GpuSerializer(queries.get_gpu(int(pk), caller)).data)

    @extend_schema(
        responses=SeriesSerializer,
        parameters=[
            OpenApiParameter("from", datetime, description="RFC 3339. Default: an hour, a day, a week or 30 days ago."),
            OpenApiParameter("to", datetime, description="RFC 3339, exclusive. Default: now."),
            OpenApiParameter("step", str, enum=tuple(queries.STEPS), default="raw"),
        ],
    )
    @action(detail=True, filterset_class=None, pagination_class=None)
    def metrics(self, request: Request, pk: str) -> StreamingHttpResponse:
        """A GPU's metrics, oldest first, each sample counted once. More than 20,000 points are a 400."""
        params = request.query_params
        series = queries.gpu_metrics(
            int(pk),
            caller_of(request),
            start=parse_time(params, "from"),
            end=parse_time(params, "to"),
            step=_step(params.get("step", "raw")),
            now=timezone.now(),
        )
        return StreamingHttpResponse(stream_series(series), content_type="application/json")


class MetricViewSet(ApiViewSet):
    """Metric batches. Most never get here: see ``intake``."""

    serializer_class = AcceptedSerializer
    parser_classes = [PackedJSONParser]
    access = {"create": REPORT}

    @extend_schema(
        request=MetricsInputSerializer,
        responses={202: AcceptedSerializer},
        description="All or nothing: one bad sample refuses the batch and is named by its index. The answer comes when "
        "the samples are durable. A fresh sample also counts as a heartbeat of its GPU's node.",
    )
    @idempotent()
    def create(self, request: Request) -> Response:
        """Store a batch of samples."""
        key = _cluster_key(request)
        accepted = services.record_batch(body=request.data, now=timezone.now(), cluster_key_id=key)
        return Response({"accepted": accepted}, status=202)


def _cluster_key(request: Request) -> int | None:
    """The id of a cluster's own key, which may speak of its cluster alone; None for other keys."""
    caller = caller_of(request)
    return caller.key_id if caller.is_cluster_key else None


def _step(text: str) -> str:
    if text not in queries.STEPS:
        detail = f"step is one of {', '.join(queries.STEPS)}."
        raise InvalidInput(FieldProblem("?step", "invalid_choice", detail))
    return text
