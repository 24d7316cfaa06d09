"""An invoice that bills a running job, whose node then turns out to have been silent: the job ends all the same."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.models.functions import Upper

from billing.models import BilledRange, InvoiceStatus
from billing.queries import billed_until
from billing.services import create_invoice, move_invoice
from billing.tests.factories import make_rate
from clusters.tests.factories import make_cluster, make_gpu, make_node
from jobs.models import Allocation, Job
from jobs.services import fail_lost_job
from jobs.tests.factories import NOW, allocate, make_job
from tenants.models import Tenant
from tenants.tests.factories import make_tenant

# Foreign keys are checked when a transaction commits; so these tests commit.
pytestmark = pytest.mark.django_db(transaction=True)

MINUTE = timedelta(minutes=1)


def running_job() -> tuple[Tenant, Job]:
    node = make_node(make_cluster())
    gpu, tenant = make_gpu(node), make_tenant()
    rate = make_rate("H100", "3", valid_from=NOW)
    job = make_job(cluster=node.cluster, tenant=tenant, status="running")
    allocate(job, [gpu], rate_id=rate.pk, price_per_gpu_hour=Decimal(3), currency="USD")
    return tenant, job


def lose_the_node(job: Job, *, silent_since: timedelta) -> None:
    """The scheduler finds out at minute 3."""
    lost_at = dict.fromkeys(job.allocations.values_list("gpu_id", flat=True), NOW + silent_since)
    assert fail_lost_job(job_id=job.pk, reason="The node went silent.", lost_at=lost_at, now=NOW + 3 * MINUTE)


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("silent_since", [MINUTE, -MINUTE])
def test_a_job_whose_node_was_lost_ends_where_its_invoice_does(silent_since: timedelta, void: bool) -> None:
    tenant, job = running_job()
    invoice = create_invoice(
        tenant_id=tenant.pk, start=NOW, end=NOW + 60 * MINUTE, created_by="test", now=NOW + 2 * MINUTE
    )
    if void:
        move_invoice(invoice_id=invoice.pk, to=InvoiceStatus.VOID, actor="test", now=NOW + 2 * MINUTE)
    lose_the_node(job, silent_since=silent_since)
    job.refresh_from_db()
    assert job.status == "failed"
    assert Allocation.objects.values_list(Upper("during"), flat=True).get() == NOW + 2 * MINUTE
    assert BilledRange.objects.values_list(Upper("during"), flat=True).get() == NOW + 2 * MINUTE


def test_what_no_invoice_names_ends_at_the_last_heartbeat() -> None:
    _, job = running_job()
    lose_the_node(job, silent_since=MINUTE)
    allocation = Allocation.objects.get(job=job)
    assert allocation.during.upper == NOW + MINUTE
    assert billed_until([allocation.pk]) == {}
