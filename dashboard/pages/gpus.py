"""A GPU's page: what it does now, its last week, and its faults, also those that left it in service."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.http import HttpRequest
from django.utils import timezone

from clusters.models import GPU, GPUFault
from dashboard.pages.nodes import STATES, GpuRow, rows_of
from gpufleet.common.panels import Panel, panel_on

FAULTS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class GpuPanel:
    """``faults``: the newest first, for those who may see them; None: not this person."""

    gpu: GPU
    rows: Sequence[GpuRow]
    faults: Sequence[GPUFault] | None
    states: Sequence[str] = STATES


@panel_on(GPU)
def gpu_panel(request: HttpRequest, gpu: GPU) -> Panel:
    """A fixed number of queries."""
    rows = rows_of([gpu], now=timezone.now()).gpus
    seen = request.user.has_perm("clusters.view_gpufault")
    faults = list(GPUFault.objects.filter(gpu=gpu)[:FAULTS_SHOWN]) if seen else None
    return Panel("dashboard/pages/gpu.html", GpuPanel(gpu, rows, faults))
