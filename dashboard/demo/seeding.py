"""Makes the demo's rows: hardware, customers, prices, two weeks of history, and the keys of its simulation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.db.models import Q

from apikeys.models import ApiKey
from apikeys.services import issue_key, revoke_key
from billing.models import InvoiceStatus
from billing.services import add_rate, create_invoices, move_invoices
from clusters.models import Cluster
from clusters.services import GpuFields, create_cluster, register_gpus, register_node
from dashboard.demo.catalog import CLUSTERS, CUSTOMERS, MODELS, PLAN_FACTORS, DemoCluster
from dashboard.demo.history import ACTOR, Fleet, Replay
from dashboard.demo.keys import ClusterAccess, DemoKeys
from gpufleet.common.locks import lock_name
from jobs.services import doorbell
from tenants.models import Tenant
from tenants.services import create_tenant

HISTORY = timedelta(days=14)
SEED = 20_261_123
# What is invoiced of it, and how many of the invoices are paid.
BILLED = timedelta(days=7)
PAID = 2
JOBS_KEY = "demo: simulated customers"
AGENTS_KEY = "demo: simulated agents of "


@dataclass(frozen=True, slots=True)
class Seeded:
    """The keys of the simulation, and how many moments of history were lived through."""

    keys: DemoKeys
    moments: int


def is_empty() -> bool:
    """Whether nobody has made a cluster or a tenant yet: the demo is for an empty house."""
    return not Cluster.objects.exists() and not Tenant.objects.exists()


def is_demo() -> bool:
    """Whether a cluster of the demo is in service."""
    return bool(demo_clusters())


def demo_clusters() -> dict[str, Cluster]:
    """The demo's clusters in service, by name."""
    names = [cluster.name for cluster in CLUSTERS]
    return {one.name: one for one in Cluster.objects.filter(name__in=names, decommissioned_at=None)}


def seed(*, now: datetime, history: timedelta = HISTORY) -> Seeded | None:
    """Make the whole demo in one transaction, its history ending at ``now``; None where the house isn't empty.

    Nobody rings the scheduler's doorbell for what is history.
    """
    with doorbell.stand_in(lambda: None), transaction.atomic():
        lock_name("demo")  # Of two at once, the second finds the first one's rows.
        if not is_empty():
            return None
        start = now - history
        access = {cluster.name: _make_cluster(cluster, start) for cluster in CLUSTERS}
        fleet = Fleet(
            cluster_ids={name: one.cluster_id for name, one in access.items()}, tenant_ids=_make_tenants(start)
        )
        _make_rates(fleet.tenant_ids, start)
        jobs_key = issue_key(label=JOBS_KEY, permissions=["read", "write"], created_by=ACTOR, now=now)
        moments = Replay(fleet, start=start, end=now, seed=SEED).run()
        _bill_first_week(list(fleet.tenant_ids.values()), start, now)
    return Seeded(DemoKeys(tuple(access.values()), jobs_key.raw), moments)


@transaction.atomic
def renew_keys(*, now: datetime) -> DemoKeys:
    """New keys for the simulation, whose old ones are lost and therefore revoked.

    A cluster's own key can't be made a second time, so its agents get a client's key that may write.
    """
    lock_name("demo")
    clusters = demo_clusters()
    ours = Q(label=JOBS_KEY) | Q(label__startswith=AGENTS_KEY) | Q(pk__in=[one.key_id for one in clusters.values()])
    for key in ApiKey.objects.filter(ours, revoked_at=None):
        revoke_key(key_id=key.pk, now=now)
    access = []
    for name, cluster in clusters.items():
        issued = issue_key(label=f"{AGENTS_KEY}{name}", permissions=["write"], created_by=ACTOR, now=now)
        access.append(ClusterAccess(cluster.pk, name, issued.raw))
    jobs_key = issue_key(label=JOBS_KEY, permissions=["read", "write"], created_by=ACTOR, now=now)
    return DemoKeys(tuple(access), jobs_key.raw)


def _make_cluster(cluster: DemoCluster, now: datetime) -> ClusterAccess:
    created = create_cluster(name=cluster.name, region=cluster.region, actor=ACTOR, now=now)
    for node in cluster.nodes():
        fields = {
            "ip_address": node.ip_address,
            "total_gpus": len(node.gpus()),
            "cpu_cores": node.cpu_cores,
            "ram_gb": node.ram_gb,
        }
        registered = register_node(
            cluster_id=created.cluster.pk,
            hostname=node.hostname,
            fields=fields,  # type: ignore[arg-type]  # the fields of NodeFields
            now=now,
        )
        register_gpus(node_id=registered.node.pk, gpus=[GpuFields(**gpu) for gpu in node.gpus()], now=now)
    return ClusterAccess(created.cluster.pk, cluster.name, created.api_key)


def _make_tenants(now: datetime) -> dict[str, int]:
    made = {}
    for customer in CUSTOMERS:
        tenant = create_tenant(
            name=customer.name,
            gpu_quota=customer.gpu_quota,
            contact_email=customer.contact_email,
            plan_tier=customer.plan_tier,
            now=now,
        )
        made[customer.name] = tenant.pk
    return made


def _make_rates(tenant_ids: Mapping[str, int], now: datetime) -> None:
    """A list price for each model, what the plans pay of it, and the prices that were negotiated."""
    for model in MODELS:
        _add_rate(model.name, model.list_price, now, reason="list price")
        for plan, factor in PLAN_FACTORS.items():
            price = (model.list_price * factor).quantize(Decimal("0.0001"))
            _add_rate(model.name, price, now, plan_tier=plan, reason=f"{plan} plan: {1 - factor:.0%} off")
    for customer in CUSTOMERS:
        if customer.own_price is not None:
            model, price = customer.own_price
            _add_rate(model.name, price, now, tenant_id=tenant_ids[customer.name], reason="contract of one year")


def _bill_first_week(tenant_ids: Sequence[int], start: datetime, now: datetime) -> None:
    """An invoice for each tenant, where a week is behind us: two are paid, one is a draft, the others are open."""
    end = start + BILLED
    if end + timedelta(days=1) > now:
        return
    drafts = create_invoices(
        expected_totals=dict.fromkeys(tenant_ids), start=start, end=end, created_by=ACTOR, now=end + timedelta(hours=2)
    ).invoices
    finalised, later = [draft.pk for draft in drafts[:-1]], end + timedelta(hours=6)
    move_invoices(invoice_ids=finalised, to=InvoiceStatus.OPEN, actor=ACTOR, now=later, reason="the week is over")
    paid = finalised[:PAID]
    move_invoices(invoice_ids=paid, to=InvoiceStatus.PAID, actor=ACTOR, now=now, reason="the money is on the account")


def _add_rate(
    model: str, price: Decimal, now: datetime, *, reason: str, plan_tier: str = "", tenant_id: int | None = None
) -> None:
    add_rate(
        gpu_model=model,
        price_per_gpu_hour=price,
        plan_tier=plan_tier,
        tenant_id=tenant_id,
        reason=reason,
        recorded_by=ACTOR,
        now=now,
    )
