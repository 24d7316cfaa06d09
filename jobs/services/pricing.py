"""Time that was sold without a price, once it has one."""

from collections.abc import Collection
from datetime import datetime

from django.db import transaction
from django.db.models import Q

from gpufleet.common.locks import lock_rows
from jobs.models import Allocation
from jobs.queries import LockedRate


@transaction.atomic
def price_unpriced_time(
    *, gpu_model: str, since: datetime, tenant_ids: Collection[int], nobody: bool, rate: LockedRate
) -> int:
    """Give a price to time that was sold without one: what these tenants hold or held of a GPU model, from allocations
    that began at ``since`` or later; with ``nobody``, also what jobs without a tenant did. A price that was locked in
    is never changed. Returns how many allocations have a price now.
    """
    owners = Q(tenant_id__in=tenant_ids) | Q(tenant__isnull=True) if nobody else Q(tenant_id__in=tenant_ids)
    unpriced = Allocation.objects.filter(
        owners, rate_id__isnull=True, gpu__model=gpu_model, during__startswith__gte=since
    )
    ids = lock_rows(Allocation.objects.filter(rate_id__isnull=True), unpriced.values_list("pk", flat=True))
    return Allocation.objects.filter(pk__in=ids).update(
        rate_id=rate.rate_id, price_per_gpu_hour=rate.price_per_gpu_hour, currency=rate.currency
    )
