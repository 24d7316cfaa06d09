"""The objects and the callers that the authorisation table speaks of."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import Group, User
from django.test import Client
from rest_framework.test import APIClient

from alerts.models import AlertEvent, AlertRule, Channel, MaintenanceWindow
from apikeys.models import ApiKey
from apikeys.services import revoke_key
from apikeys.tests.factories import client_with, make_admin_key, make_key
from billing.services import (
    add_service_level,
    create_invoice,
    draft_credit_note,
    issue_credit_note,
    move_invoice,
)
from billing.tests.factories import make_rate, sell
from clusters.models import Cluster
from clusters.tests.factories import make_cluster_and_key, make_gpu, make_node
from jobs.models import SchedulerCycle
from jobs.tests.factories import make_job
from tenants.models import Tenant
from tenants.tests.factories import make_tenant

MARK = "acme"  # In the name of everything that is Alice's, so that a list that shows it to Bob is caught.


@dataclass
class World:
    """``ids`` by the names that the table uses, and a client for each caller."""

    ids: dict[str, Any] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)

    def fill(self, template: Any) -> Any:
        """A body with the ids in the place of their names."""
        if isinstance(template, dict):
            return {name: self.fill(value) for name, value in template.items()}
        if isinstance(template, list):
            return [self.fill(value) for value in template]
        if isinstance(template, str) and template.startswith("@"):
            return self.ids[template[1:]]
        return template


def make_world(now: datetime) -> World:
    """Alice with a running job, an invoice and an incident; Bob with nothing; two clusters; everybody's keys."""
    world = World()
    acme, bluefin = make_tenant(MARK), make_tenant("bluefin")
    cluster, raw = make_cluster_and_key("frankfurt")
    empty, other_raw = make_cluster_and_key("oslo")
    world.ids |= {"tenants": acme.pk, "clusters": cluster.pk, "empty cluster": empty.pk}
    world.ids["now"] = now.isoformat()
    world.ids["tomorrow"] = (now + timedelta(days=1)).isoformat()
    _add_work(world, acme, cluster, now)
    _add_notes(world, acme, now)
    _add_incident(world, acme, now)
    _add_alerting(world, cluster, now)
    SchedulerCycle.objects.create(id=1, finished_at=now, duration_ms=1)
    _add_callers(world, acme, bluefin, now)
    world.clients |= {"cluster": _bearer(raw), "other": _bearer(other_raw)}
    return world


def _add_work(world: World, acme: Tenant, cluster: Cluster, now: datetime) -> None:
    rate = make_rate("H100")
    start = now - timedelta(days=1)
    node = make_node(cluster, "node-1", last_heartbeat_at=now)
    held, sold = (make_gpu(node, model="H100", registered_at=start) for _ in range(2))
    running = sell(acme, now - timedelta(hours=1), rate=rate, gpu=held).job
    running.name = f"{MARK}-train"
    running.save()
    sell(acme, start, now - timedelta(hours=2), rate=rate, gpu=sold)
    world.ids["run"] = running.allocations.get().pk
    invoice = create_invoice(tenant_id=acme.pk, start=start, end=now - timedelta(hours=2), created_by="test", now=now)
    unbilled = make_tenant(f"{MARK}-unbilled")
    sell(unbilled, now - timedelta(hours=2), now - timedelta(hours=1), rate=rate, gpu=sold)
    world.ids |= {"clusters/nodes": node.pk, "clusters/gpus": held.pk, "idle gpu": sold.pk, "jobs": running.pk}
    world.ids |= {"billing/invoices": invoice.pk, "unbilled tenant": unbilled.pk}
    world.ids["waiting job"] = make_job(f"{MARK}-waits", cluster=cluster, tenant=acme, submitted_at=now).pk


def _add_notes(world: World, acme: Tenant, now: datetime) -> None:
    end = now - timedelta(days=2)
    sell(acme, end - timedelta(hours=2), end, rate=make_rate("A100", now=now - timedelta(days=30)))
    billed = create_invoice(tenant_id=acme.pk, start=end - timedelta(days=1), end=end, created_by="test", now=now)
    move_invoice(invoice_id=billed.pk, to="open", actor="test", now=now)
    issued, draft = (
        draft_credit_note(
            invoice_id=billed.pk, amount=Decimal(1), reason=f"{MARK}'s node failed", created_by="test", now=now
        )
        for _ in range(2)
    )
    issue_credit_note(credit_note_id=issued.pk, actor="test", now=now)
    rule = add_service_level(
        name=f"{MARK} uptime",
        tenant_id=acme.pk,
        states=["offline"],
        longer_than_seconds=300,
        credit_percent=100,
        created_by="test",
        now=now,
    )
    world.ids |= {"billing/credit-notes": issued.pk, "draft note": draft.pk, "billing/service-levels": rule.pk}


def _add_incident(world: World, acme: Tenant, now: datetime) -> None:
    loud, quiet = (
        AlertRule.objects.create(name=name, type="quota_breach", threshold=90, tenant=acme, created_at=now)
        for name in (f"{MARK} quota", f"{MARK} quota, quiet")
    )
    incident = AlertEvent.objects.create(
        rule=loud,
        subject=f"tenant:{acme.pk}",
        tenant=acme,
        status="firing",
        value=95,
        message="full",
        since=now,
        fired_at=now,
    )
    world.ids |= {"alerts": loud.pk, "quiet alert": quiet.pk, "alerts/events": incident.pk}


def _add_alerting(world: World, cluster: Cluster, now: datetime) -> None:
    channel = Channel.objects.create(name="on call", kind="email", target="oncall@example.com", created_at=now)
    window = MaintenanceWindow.objects.create(
        cluster=cluster,
        starts_at=now,
        ends_at=now + timedelta(days=1),
        reason="switches",
        created_by="t",
        created_at=now,
    )
    world.ids |= {"alerts/channels": channel.pk, "alerts/maintenance": window.pk}


def _add_callers(world: World, acme: Tenant, bluefin: Tenant, now: datetime) -> None:
    revoked, expired = make_admin_key(), make_admin_key()
    revoke_key(key_id=revoked.key.pk, now=now)
    ApiKey.objects.filter(pk=expired.key.pk).update(expires_at=now)
    world.ids["keys"] = make_key(label="spare").key.pk
    issued = {
        "revoked": revoked,
        "expired": expired,
        "A": make_key(acme),
        "B": make_key(bluefin),
        "read": make_key(permissions=["read"]),
        "write": make_key(permissions=["write"]),
        "admin": make_admin_key(),
    }
    world.clients = {name: client_with(key) for name, key in issued.items()}
    world.clients |= {"anonymous": APIClient(), "demo": APIClient()}
    world.clients |= {group: _person(group) for group in ("operator", "finance")}


def _bearer(raw: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client


def _person(group: str) -> APIClient:
    person = User.objects.create_user(group, is_staff=True)
    person.groups.add(Group.objects.get(name=group))
    client = APIClient()
    client.force_login(person)
    return client
