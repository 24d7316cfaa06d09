"""Clusters, nodes and GPUs in the operator's console."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.decorators import display

from clusters import services
from clusters.models import GPU, Cluster, GPUHealth, GPUStatePeriod, LatestReading, Node, NodeIntent, NodeWatch
from gpufleet.common.admin import ReadOnlyAdmin, ServiceAdmin, actor_of, report, shown_during
from gpufleet.common.errors import DomainError

STATE_COLOURS = {
    "available": "success",
    "draining": "warning",
    "maintenance": "info",
    "unhealthy": "danger",
    "offline": "danger",
}
STATUS_COLOURS = {"online": "success", "offline": "danger", "draining": "warning", "maintenance": "info"}


@admin.register(Cluster)
class ClusterAdmin(ServiceAdmin):
    """Clusters are made, renamed, put in maintenance and decommissioned here; their rows are never deleted."""

    list_display = ["name", "region", "shown_status", "created_at", "decommissioned_at"]
    list_filter = ["status", "region", ("decommissioned_at", admin.EmptyFieldListFilter)]
    search_fields = ["name", "region"]
    actions = ["decommission"]

    @display(description="Status", ordering="status", label={"active": "success", "maintenance": "info"})  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_status(self, cluster: Cluster) -> str:
        """The status as a coloured word."""
        return cluster.status

    def get_fields(self, request: HttpRequest, obj: Cluster | None = None) -> list[str]:
        """A new cluster is active."""
        return ["name", "region"] if obj is None else ["name", "region", "status", "execution_enabled"]

    def has_change_permission(self, request: HttpRequest, obj: Cluster | None = None) -> bool:
        """A decommissioned cluster is history."""
        allowed: bool = super().has_change_permission(request, obj)
        return allowed and (obj is None or obj.decommissioned_at is None)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: the ledger speaks of clusters."""
        return False

    def save_model(self, request: HttpRequest, obj: Cluster, form: "ModelForm[Cluster]", change: bool) -> None:
        """Through the services, as the API does."""
        values = form.cleaned_data
        if change:
            services.update_cluster(cluster_id=obj.pk, changes=values, now=timezone.now())  # type: ignore[arg-type]  # the form's fields
            return
        created = services.create_cluster(**values, actor=actor_of(request), now=timezone.now())
        obj.pk = created.cluster.pk
        request.created_cluster = created  # type: ignore[attr-defined]  # for the answer to this very request

    def response_add(self, request: HttpRequest, obj: Cluster, post_url_continue: str | None = None) -> HttpResponse:
        """The raw key of its node agents as the answer itself, so that it is stored nowhere."""
        created: services.CreatedCluster = request.created_cluster  # type: ignore[attr-defined]  # set by save_model
        context = {
            **self.admin_site.each_context(request),
            "title": "The new cluster's key, for its node agents",
            "key": created.cluster.key,
            "raw": created.api_key,
        }
        return TemplateResponse(request, "admin/apikeys/apikey/issued.html", context)

    @admin.action(description="Decommission for good", permissions=["change"])
    def decommission(self, request: HttpRequest, clusters: QuerySet[Cluster]) -> None:
        """Take the clusters and their hardware out of service."""
        refusals, names = [], []
        for cluster in clusters:
            try:
                services.decommission_cluster(cluster_id=cluster.pk, now=timezone.now())
                names.append(cluster.name)
            except DomainError as refusal:
                refusals.append(refusal)
        report(request, f"{len(names)} clusters are decommissioned.", refusals)


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    """Nodes register themselves; people drain, stop and resume them."""

    list_display = ["hostname", "cluster", "shown_status", "intent_reason", "total_gpus", "last_heartbeat_at"]
    list_filter = ["status", "cluster", ("decommissioned_at", admin.EmptyFieldListFilter)]
    list_select_related = ["cluster"]
    search_fields = ["hostname", "ip_address"]
    actions = ["drain", "maintain", "resume"]

    @display(description="Status", ordering="status", label=STATUS_COLOURS)  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_status(self, node: Node) -> str:
        """The status as a coloured word."""
        return str(node.status)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whoever may change nodes may drain them, though nobody edits their fields."""
        return request.user.has_perm("clusters.change_node")

    @admin.action(description="Cordon and drain", permissions=["operate"])
    def drain(self, request: HttpRequest, nodes: QuerySet[Node]) -> None:
        """What runs goes on; nothing new starts."""
        self._turn(request, nodes, NodeIntent.DRAINING)

    @admin.action(description="Put in maintenance", permissions=["operate"])
    def maintain(self, request: HttpRequest, nodes: QuerySet[Node]) -> None:
        """Out of service for the time being."""
        self._turn(request, nodes, NodeIntent.MAINTENANCE)

    @admin.action(description="Resume", permissions=["operate"])
    def resume(self, request: HttpRequest, nodes: QuerySet[Node]) -> None:
        """Back to work."""
        self._turn(request, nodes, NodeIntent.ACTIVE)

    def _turn(self, request: HttpRequest, nodes: QuerySet[Node], intent: NodeIntent) -> None:
        reason = "" if intent == NodeIntent.ACTIVE else f"By {actor_of(request)}."
        ids = [node.pk for node in nodes]
        count = services.turn_nodes(node_ids=ids, intent=intent, reason=reason, now=timezone.now())
        self.message_user(request, f"{count} nodes are now: {intent.label.lower()}.")


@admin.register(GPU)
class GpuAdmin(ReadOnlyAdmin):
    """GPUs are registered by their nodes; people mark their health."""

    list_display = ["id", "node", "gpu_index", "model", "shown_state", "health_reason", "uuid", "retired_at"]
    list_filter = ["state", "health", "model", "node__cluster", ("retired_at", admin.EmptyFieldListFilter)]
    list_select_related = ["node"]
    search_fields = ["uuid", "node__hostname", "model"]
    actions = ["mark_healthy", "mark_unhealthy"]

    @display(description="State", ordering="state", label=STATE_COLOURS)  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_state(self, gpu: GPU) -> str:
        """The state as a coloured word."""
        return gpu.state

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whoever may change GPUs may mark them, though nobody edits their fields."""
        return request.user.has_perm("clusters.change_gpu")

    @admin.action(description="Mark healthy", permissions=["operate"])
    def mark_healthy(self, request: HttpRequest, gpus: QuerySet[GPU]) -> None:
        """Ready for jobs again."""
        self._mark(request, gpus, GPUHealth.HEALTHY)

    @admin.action(description="Mark unhealthy", permissions=["operate"])
    def mark_unhealthy(self, request: HttpRequest, gpus: QuerySet[GPU]) -> None:
        """Takes no job until marked healthy again."""
        self._mark(request, gpus, GPUHealth.UNHEALTHY)

    def _mark(self, request: HttpRequest, gpus: QuerySet[GPU], health: GPUHealth) -> None:
        ids = [gpu.pk for gpu in gpus]
        reason = f"By {actor_of(request)}."
        count = services.mark_many(gpu_ids=ids, health=health, reason=reason, now=timezone.now())
        self.message_user(request, f"{count} GPUs are marked {health.label.lower()}.")


@admin.register(GPUStatePeriod)
class GpuStatePeriodAdmin(ReadOnlyAdmin):
    """The ledger of states. Rows are only looked at."""

    list_display = ["gpu", "state", "reason", shown_during]
    list_filter = ["state"]
    list_select_related = ["gpu"]
    search_fields = ["gpu__uuid", "gpu__node__hostname"]
    show_full_result_count = False


@admin.register(LatestReading)
class LatestReadingAdmin(ReadOnlyAdmin):
    """The newest sample of each GPU."""

    list_display = ["gpu", "recorded_at", "utilization_pct", "memory_used_mb", "temperature_c", "power_draw_w", "xid"]
    list_select_related = ["gpu"]
    search_fields = ["gpu__uuid", "gpu__node__hostname"]


@admin.register(NodeWatch)
class NodeWatchAdmin(ReadOnlyAdmin):
    """How long somebody has been listening for heartbeats."""

    list_display = ["listening_since", "last_sweep_at"]
