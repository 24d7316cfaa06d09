"""What became of the GPUs, in the operator's console: states, faults, newest readings. People only look."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from clusters.models import GPUFault, GPUStatePeriod, LatestReading, NodeWatch
from clusters.queries import held_back_lately
from gpufleet.common.admin import ReadOnlyAdmin, shown_during


class HeldBackFilter(admin.SimpleListFilter):
    """Faults that only a person can look at."""

    title = "held back"
    parameter_name = "left"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """One choice beside all."""
        return [("in_service", "Of late, and the GPU is in service")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[GPUFault]) -> QuerySet[GPUFault]:
        """As home counts them."""
        if self.value() != "in_service":
            return queryset
        return queryset.filter(pk__in=held_back_lately(now=timezone.now()).values("pk"))


@admin.register(GPUFault)
class GpuFaultAdmin(ReadOnlyAdmin):
    """Sessions of ill health, and those that left their GPU in service since too many others were out."""

    list_display = ["gpu", "cause", "reason", "began_at", "until"]
    list_filter = ["cause", HeldBackFilter, "began_at"]
    search_fields = ["gpu__uuid", "gpu__node__hostname", "reason"]
    list_select_related = ["gpu__node"]

    @admin.display(description="Until", ordering="ended_at")
    def until(self, fault: GPUFault) -> Any:
        """When it ended; one that was held back never began to count."""
        return "left in service" if fault.held_back else fault.ended_at


@admin.register(GPUStatePeriod)
class GpuStatePeriodAdmin(ReadOnlyAdmin):
    """The ledger of states. Rows are only looked at."""

    list_display = ["gpu", "state", "reason", shown_during]
    list_filter = ["state"]
    list_select_related = ["gpu__node"]
    search_fields = ["gpu__uuid", "gpu__node__hostname"]
    show_full_result_count = False


@admin.register(LatestReading)
class LatestReadingAdmin(ReadOnlyAdmin):
    """The newest sample of each GPU."""

    list_display = ["gpu", "recorded_at", "utilization_pct", "memory_used_mb", "temperature_c", "power_draw_w", "xid"]
    list_select_related = ["gpu__node"]
    search_fields = ["gpu__uuid", "gpu__node__hostname"]


@admin.register(NodeWatch)
class NodeWatchAdmin(ReadOnlyAdmin):
    """How long somebody has been listening for heartbeats."""

    list_display = ["listening_since", "last_sweep_at"]
