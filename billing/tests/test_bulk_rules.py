"""Whose a run in bulk is, and that a step which is refused leaves nothing behind."""

from typing import Any
from uuid import uuid4

import pytest

from billing.tests.factories import NOW
from gpufleet.common import bulk
from gpufleet.common.errors import Conflict
from gpufleet.common.models import BulkStep
from tenants.models import Tenant
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db


def test_a_token_starts_work_for_one_person_and_of_one_kind() -> None:
    said: dict[str, Any] = {"token": uuid4(), "rows": {1: bulk.Row("x")}, "terms": {}, "reason": "", "now": NOW}
    bulk.start_run(work="billing.void", actor="user:a", **said)
    for work, actor in (("billing.void", "user:b"), ("billing.open", "user:a")):
        with pytest.raises(bulk.OtherRun):
            bulk.start_run(work=work, actor=actor, **said)


def test_what_a_refused_step_had_written_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = alice()

    def half(step: bulk.Doing) -> Tenant:
        Tenant.objects.filter(pk=step.object_id).update(name="half done")
        raise Conflict("No.")

    work = bulk.Work(
        "test.half", "Half", "halved", Tenant, "tenants.change_tenant", half, lambda row: {"name": row.name}
    )
    monkeypatch.setitem(bulk._works, work.name, work)
    rows = {tenant.pk: bulk.Row("acme")}
    run, _ = bulk.start_run(work=work.name, token=uuid4(), rows=rows, terms={}, actor="a", reason="", now=NOW)
    bulk.carry_on(run, actor="a", now=NOW)
    assert BulkStep.objects.get().status == "refused"
    assert Tenant.objects.get().name == "acme"
