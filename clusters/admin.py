"""Clusters, nodes and GPUs in the operator's console."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.decorators import display

from clusters import ledger_admin, services  # noqa: F401  # Django looks for admin.py alone.
from clusters.models import GPU, Cluster, GPUHealth, LatestReading, Node, NodeIntent
from clusters.queries import Workload, cluster_workload, count_running_jobs, holders, list_clusters
from gpufleet.common.admin import (
    Answers,
    Question,
    ReadOnlyAdmin,
    ServiceAdmin,
    actor_of,
    asks,
    counted,
    report,
    said_of,
)
from gpufleet.common.asking import one_by_one

NODE_FIELDS = ["status", "intent", "intent_reason"]
GPU_FIELDS = ["state", "health", "health_reason"]
STATE_COLOURS = {
    "available": "success",
    "draining": "warning",
    "maintenance": "info",
    "unhealthy": "danger",
    "offline": "danger",
}
# What a cluster does with its jobs.
JOB_RULES = [
    "on_node_loss",
    "enforce_time_limit",
    "execution_enabled",
    "preemption",
    "preemption_grace_s",
    "preemption_min_run_s",
]
STATUS_COLOURS = {"online": "success", "offline": "danger", "draining": "warning", "maintenance": "info"}
SAID = {NodeIntent.DRAINING: "draining", NodeIntent.MAINTENANCE: "in maintenance", NodeIntent.ACTIVE: "in service"}
INTENTS = {"drain": NodeIntent.DRAINING, "maintain": NodeIntent.MAINTENANCE, "resume": NodeIntent.ACTIVE}


def _of_clusters(clusters: Sequence[Cluster]) -> list[str]:
    in_service = GPU.objects.filter(node__cluster__in=clusters, retired_at__isnull=True)
    running = sum(count_running_jobs.ask(cluster.pk) for cluster in clusters)
    gpus = counted(in_service.count(), "GPU")
    return [
        f"Takes {gpus} out of service for good, revokes the clusters' keys, and cancels what waits.",
        f"{counted(running, 'running job')} there; a cluster on which jobs run is refused.",
    ]


def _of_nodes(nodes: Sequence[Node], one: str, many: str) -> list[str]:
    gpus = list(GPU.objects.filter(node__in=nodes, retired_at__isnull=True).values_list("pk", flat=True))
    held = holders.ask(gpus)
    jobs = len({holder.job_id for holder in held.values()})
    of_jobs = f"{counted(len(held), 'GPU')} held by {counted(jobs, 'job')}" if held else "none held by a job"
    effect = one if len(nodes) == 1 else many
    return [f"{counted(len(nodes), 'node')} with {counted(len(gpus), 'GPU')}, {of_jobs}. {effect}"]


def _of_gpus(gpus: Sequence[GPU], one: str, many: str) -> list[str]:
    held = holders.ask([gpu.pk for gpu in gpus])
    effect = one if len(gpus) == 1 else many
    return [f"{counted(len(gpus), 'GPU')}, {len(held) or 'none'} held by a job. {effect}"]


DECOMMISSION = Question("Decommission", _of_clusters, ["status", "decommissioned_at"], danger=True)
RUNS_ON = "What runs goes on to its end; nothing new starts."
OUT = "count as out of service, and nothing new starts; what runs goes on."
DRAIN = Question("Cordon and drain", partial(_of_nodes, one=RUNS_ON, many=RUNS_ON), NODE_FIELDS)
MAINTAIN = Question(
    "Put in maintenance",
    partial(_of_nodes, one=f"Its GPUs {OUT}", many=f"Their GPUs {OUT}"),
    NODE_FIELDS,
    danger=True,
)
RESUME = Question(
    "Resume", partial(_of_nodes, one="It takes new jobs again.", many="They take new jobs again."), NODE_FIELDS
)
RETIRE = Question(
    "Retire",
    partial(
        _of_gpus,
        one="Its time in the ledger ends and its slot is free; for a card that is gone for good. It is refused while a "
        "job holds it.",
        many="Their time in the ledger ends and their slots are free; for cards that are gone for good. Those that a "
        "job holds are refused.",
    ),
    [*GPU_FIELDS, "retired_at", "retired_reason"],
    danger=True,
)
MARK_HEALTHY = Question(
    "Mark healthy", partial(_of_gpus, one="It takes jobs again.", many="They take jobs again."), GPU_FIELDS
)
MARK_UNHEALTHY = Question(
    "Mark unhealthy",
    partial(
        _of_gpus,
        one="It takes no job until it is marked healthy; what runs goes on.",
        many="They take no job until they are marked healthy; what runs goes on.",
    ),
    GPU_FIELDS,
    danger=True,
)


@admin.register(Cluster)
class ClusterAdmin(ServiceAdmin):
    """Clusters are made, renamed, put in maintenance and decommissioned here; their rows are never deleted."""

    list_display = ["name", "region", "shown_status", "nodes", "gpus", "idle", "running", "queued", "decommissioned_at"]
    list_filter = ["status", "region", ("decommissioned_at", admin.EmptyFieldListFilter)]
    search_fields = ["name", "region"]
    actions = ["decommission"]

    @display(description="Status", ordering="status", label={"active": "success", "maintenance": "info"})  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_status(self, cluster: Cluster) -> str:
        """The status as a coloured word."""
        return cluster.status

    def described(self, rows: Sequence[Cluster]) -> list[Cluster]:
        """With how much there is of each, and what it does now."""
        listed = list(rows)
        ids = [cluster.pk for cluster in listed]
        counted_ones, workloads = list_clusters().in_bulk(ids), cluster_workload.ask(ids, None)
        for cluster in listed:
            cluster.counts = counted_ones.get(cluster.pk)  # type: ignore[attr-defined]  # for the columns below
            cluster.workload = workloads.get(cluster.pk, Workload())  # type: ignore[attr-defined]
        return listed

    @admin.display(description="Nodes")
    def nodes(self, cluster: Any) -> int:
        """In service."""
        return cluster.counts.node_count if cluster.counts else 0

    @admin.display(description="GPUs")
    def gpus(self, cluster: Any) -> int:
        """In service."""
        return cluster.counts.gpu_count if cluster.counts else 0

    @admin.display(description="Idle GPUs")
    def idle(self, cluster: Any) -> int:
        """Available, and no job holds them."""
        return cluster.counts.idle_gpus if cluster.counts else 0

    @admin.display(description="Running jobs")
    def running(self, cluster: Any) -> int:
        """That hold GPUs now."""
        return int(cluster.workload.active_jobs)

    @admin.display(description="Queued jobs")
    def queued(self, cluster: Any) -> int:
        """That wait for it."""
        return int(cluster.workload.queued_jobs)

    def get_fields(self, request: HttpRequest, obj: Cluster | None = None) -> list[str]:
        """A new cluster is active."""
        return ["name", "region"] if obj is None else ["name", "region", "status", *JOB_RULES]

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

    def applies(self, action: str, row: Cluster) -> bool:
        """Once."""
        return row.decommissioned_at is None

    @asks(DECOMMISSION, description="Decommission for good", permission="change")
    def decommission(self, request: HttpRequest, clusters: QuerySet[Cluster], answers: Answers) -> None:
        """Take the clusters and their hardware out of service."""
        done, refusals = one_by_one(
            clusters, lambda cluster: services.decommission_cluster(cluster_id=cluster.pk, now=timezone.now())
        )
        report(request, f"{said_of(len(done), 'cluster')} decommissioned." if done else "", refusals)


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    """Nodes register themselves; people drain, stop and resume them."""

    list_display = [
        "hostname",
        "cluster",
        "shown_status",
        "intent_reason",
        "models",
        "sold",
        "ill",
        "last_heartbeat_at",
    ]
    list_filter = ["status", "cluster", ("decommissioned_at", admin.EmptyFieldListFilter)]
    list_select_related = ["cluster"]
    search_fields = ["hostname", "ip_address"]
    actions = ["drain", "maintain", "resume"]

    @display(description="Status", ordering="status", label=STATUS_COLOURS)  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_status(self, node: Node) -> str:
        """The status as a coloured word."""
        return str(node.status)

    def described(self, rows: Sequence[Node]) -> list[Node]:
        """With their GPUs, and which of them are sold."""
        listed = list(rows)
        gpus: dict[int, list[GPU]] = {node.pk: [] for node in listed}
        for gpu in GPU.objects.filter(node__in=listed, retired_at__isnull=True):
            gpus[gpu.node_id].append(gpu)
        held = holders.ask([gpu.pk for mine in gpus.values() for gpu in mine])
        for node in listed:
            sold = sum(gpu.pk in held for gpu in gpus[node.pk])
            node.shown = gpus[node.pk], sold  # type: ignore[attr-defined]  # for the columns below
        return listed

    @admin.display(description="Model")
    def models(self, node: Any) -> str:
        """Of its GPUs."""
        return ", ".join(sorted({gpu.model or "unnamed model" for gpu in node.shown[0]}))

    @admin.display(description="Sold")
    def sold(self, node: Any) -> str:
        """Of how many GPUs in service."""
        return f"{node.shown[1]}\u00a0of\u00a0{len(node.shown[0])}"

    @admin.display(description="Unhealthy")
    def ill(self, node: Any) -> int:
        """GPUs that take no job, also while one still holds them."""
        return sum(gpu.health == GPUHealth.UNHEALTHY for gpu in node.shown[0])

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whoever may change nodes may drain them, though nobody edits their fields."""
        return request.user.has_perm("clusters.change_node")

    def applies(self, action: str, row: Node) -> bool:
        """To what it is not already."""
        return row.decommissioned_at is None and row.intent != INTENTS.get(action)

    @asks(DRAIN, description="Cordon and drain", permission="operate")
    def drain(self, request: HttpRequest, nodes: QuerySet[Node], answers: Answers) -> None:
        """What runs goes on; nothing new starts."""
        self._turn(request, nodes, NodeIntent.DRAINING, answers)

    @asks(MAINTAIN, description="Put in maintenance", permission="operate")
    def maintain(self, request: HttpRequest, nodes: QuerySet[Node], answers: Answers) -> None:
        """Out of service for the time being."""
        self._turn(request, nodes, NodeIntent.MAINTENANCE, answers)

    @asks(RESUME, description="Resume", permission="operate")
    def resume(self, request: HttpRequest, nodes: QuerySet[Node], answers: Answers) -> None:
        """Back to work."""
        self._turn(request, nodes, NodeIntent.ACTIVE, answers)

    def _turn(self, request: HttpRequest, nodes: QuerySet[Node], intent: NodeIntent, answers: Answers) -> None:
        reason = "" if intent == NodeIntent.ACTIVE else f"{answers['reason']} (by {actor_of(request)})"
        ids = [node.pk for node in nodes]
        count = services.turn_nodes(node_ids=ids, intent=intent, reason=reason, now=timezone.now())
        self.message_user(request, f"{said_of(count, 'node')} now {SAID[intent]}.", messages.SUCCESS)


@admin.register(GPU)
class GpuAdmin(ReadOnlyAdmin):
    """GPUs are registered by their nodes; people mark their health, and retire those that are gone for good."""

    list_display = ["id", "node", "gpu_index", "model", "shown_state", "held_by", "busy", "health_reason", "retired_at"]
    list_filter = ["state", "health", "model", "node__cluster", ("retired_at", admin.EmptyFieldListFilter)]
    list_select_related = ["node"]
    search_fields = ["uuid", "node__hostname", "model"]
    actions = ["mark_healthy", "mark_unhealthy", "retire"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[GPU]:
        """With the nodes, by which GPUs are called."""
        rows: QuerySet[GPU] = super().get_queryset(request)
        return rows.select_related("node")

    @display(description="State", ordering="state", label=STATE_COLOURS)  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_state(self, gpu: GPU) -> str:
        """The state as a coloured word."""
        return gpu.state

    def described(self, rows: Sequence[GPU]) -> list[GPU]:
        """With the jobs that hold them, and their newest readings."""
        listed = list(rows)
        ids = [gpu.pk for gpu in listed]
        held, readings = holders.ask(ids), LatestReading.objects.in_bulk(ids)
        for gpu in listed:
            gpu.shown = held.get(gpu.pk), readings.get(gpu.pk)  # type: ignore[attr-defined]  # for the columns below
        return listed

    @admin.display(description="Held by")
    def held_by(self, gpu: Any) -> str:
        """The job, as a link."""
        holder = gpu.shown[0]
        page = holder and reverse("admin:jobs_job_change", args=[holder.job_id])
        return format_html('<a href="{}">{}</a>', page, holder.job_name) if holder else "–"

    @admin.display(description="Busy, hot")
    def busy(self, gpu: Any) -> str:
        """By the newest sample."""
        reading = gpu.shown[1]
        figures = ((reading.utilization_pct, "%"), (reading.temperature_c, "°C")) if reading else ()
        return ", ".join(f"{figure:.0f}\u00a0{unit}" for figure, unit in figures if figure is not None) or "–"

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whoever may change GPUs may mark them, though nobody edits their fields."""
        return request.user.has_perm("clusters.change_gpu")

    def has_retire_permission(self, request: HttpRequest) -> bool:
        """Whoever may decommission clusters: it can't be undone."""
        return request.user.has_perm("clusters.change_cluster")

    def applies(self, action: str, row: GPU) -> bool:
        """To what it is not already."""
        if row.retired_at is not None or action == "retire":
            return row.retired_at is None
        return (row.health == GPUHealth.HEALTHY) == (action == "mark_unhealthy")

    @asks(MARK_HEALTHY, description="Mark healthy", permission="operate")
    def mark_healthy(self, request: HttpRequest, gpus: QuerySet[GPU], answers: Answers) -> None:
        """Ready for jobs again."""
        self._mark(request, gpus, GPUHealth.HEALTHY, answers)

    @asks(MARK_UNHEALTHY, description="Mark unhealthy", permission="operate")
    def mark_unhealthy(self, request: HttpRequest, gpus: QuerySet[GPU], answers: Answers) -> None:
        """Takes no job until marked healthy again."""
        self._mark(request, gpus, GPUHealth.UNHEALTHY, answers)

    @asks(RETIRE, description="Retire for good", permission="retire")
    def retire(self, request: HttpRequest, gpus: QuerySet[GPU], answers: Answers) -> None:
        """Out of service, with its history."""
        said = {"reason": answers["reason"], "actor": actor_of(request), "now": timezone.now()}
        done, refusals = one_by_one(gpus, lambda gpu: services.retire_gpu(gpu_id=gpu.pk, **said))
        report(request, f"{said_of(sum(done), 'GPU')} retired." if any(done) else "", refusals)

    def _mark(self, request: HttpRequest, gpus: QuerySet[GPU], health: GPUHealth, answers: Answers) -> None:
        ids = [gpu.pk for gpu in gpus]
        reason = f"{answers['reason']} (by {actor_of(request)})"
        count = services.mark_many(gpu_ids=ids, health=health, reason=reason, now=timezone.now())
        self.message_user(request, f"{said_of(count, 'GPU')} now marked {health.label.lower()}.", messages.SUCCESS)
