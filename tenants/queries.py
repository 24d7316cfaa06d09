"""Reads of tenants, and the questions about them that the jobs app answers."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from django.db.models import QuerySet

from gpufleet.common.errors import NotFound
from gpufleet.common.ports import Port
from tenants.models import Tenant


@dataclass(frozen=True, slots=True)
class TenantWorkload:
    """What a tenant does right now: GPUs held by open allocations, and jobs that wait in the queue."""

    gpus_in_use: int = 0
    queued_jobs: int = 0


@dataclass(frozen=True, slots=True)
class TenantReport:
    """A tenant and its workload, as the API shows them."""

    tenant: Tenant
    workload: TenantWorkload

    @property
    def quota_used_pct(self) -> float:
        """GPUs held in percent of the quota, to one decimal; above 100 after the quota was lowered."""
        return round(100 * self.workload.gpus_in_use / self.tenant.gpu_quota, 1)


# For many tenants in one query; a tenant that does nothing may be left out of the answer.
tenant_workload: Port[Callable[[Collection[int]], Mapping[int, TenantWorkload]]] = Port("tenants.tenant_workload")

# Whether any job was ever submitted for the tenant, or any allocation belongs to it.
has_history: Port[Callable[[int], bool]] = Port("tenants.has_history")


def list_tenants(*, of_tenant: int | None) -> QuerySet[Tenant]:
    """The tenants that a caller of this tenant may know of: its own alone; None stands for the whole fleet's."""
    rows = Tenant.objects.all()
    return rows if of_tenant is None else rows.filter(pk=of_tenant)


def get_tenant(tenant_id: int, *, of_tenant: int | None) -> Tenant:
    """One tenant. Raises ``NotFound`` when there is none that the caller may know of."""
    tenant = list_tenants(of_tenant=of_tenant).filter(pk=tenant_id).first()
    if tenant is None:
        raise NotFound
    return tenant


def describe(tenants: Iterable[Tenant]) -> list[TenantReport]:
    """The tenants with what they do right now, in the same order; one question to the jobs for all of them."""
    rows = list(tenants)
    workloads = tenant_workload.ask([tenant.pk for tenant in rows])
    return [TenantReport(tenant, workloads.get(tenant.pk, TenantWorkload())) for tenant in rows]
