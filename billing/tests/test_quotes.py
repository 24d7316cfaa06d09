"""A job's quote is what its invoice says, if the job runs as it was estimated."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apikeys.tests.factories import client_with, make_admin_key
from billing import services
from billing.tests.factories import make_rate, sell
from clusters.models import GPU
from clusters.tests.factories import make_gpu, make_node
from jobs.queries import quote_of
from jobs.tests.factories import make_job
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("minutes", [1, 7, 61])
@pytest.mark.parametrize(
    ("currency", "terms"),
    [
        ("USD", {"price": "2.37"}),
        ("USD", {"price": "1.999999", "minimum_seconds": 600, "increment_seconds": 60}),
        ("JPY", {"price": "411.5", "increment_seconds": 45}),
        ("KWD", {"price": "0.7777"}),
    ],
)
def test_the_quote_equals_the_invoice(currency: str, terms: dict[str, Any], minutes: int) -> None:
    acme, now = alice(currency=currency), timezone.now()
    submitted = now - timedelta(hours=3)
    node = make_node()
    gpus = [make_gpu(node, model="H100") for _ in range(3)]
    rate = make_rate("H100", currency=currency, **terms)
    job = make_job(
        cluster=node.cluster, tenant=acme, gpu_count=3, estimated_duration_min=minutes, submitted_at=submitted
    )
    quote = quote_of(job)
    assert quote is not None
    for gpu in gpus:
        sell(acme, submitted, submitted + timedelta(minutes=minutes), rate=rate, gpu=gpu)
    invoice = services.create_invoice(
        tenant_id=acme.pk, start=now - timedelta(days=1), end=now, created_by="test", now=now
    )
    assert (quote.lowest, quote.highest, quote.currency) == (invoice.total, invoice.total, currency)
    assert quote.unpriced_models == []


def test_submission_answers_with_the_range_of_what_it_may_cost_and_names_what_has_no_price() -> None:
    node = make_node()
    for model in ("H100", "H200", "L4"):
        make_gpu(node, model=model)
    make_rate("H100", "2.00")
    make_rate("H200", "3.00")
    client = client_with(make_admin_key())
    body = {"cluster_id": node.cluster_id, "name": "train", "estimated_duration_min": 90}

    def quoted(**fields: Any) -> Any:
        return client.post("/api/jobs", {**body, **fields}).json()["quote"]

    assert quoted() == {"lowest": "3.00", "highest": "4.50", "currency": "USD", "unpriced_models": ["L4"]}
    assert quoted(gpu_type="H100")["highest"] == "3.00"
    assert quoted(gpu_type="L4") == {"lowest": None, "highest": None, "currency": None, "unpriced_models": ["L4"]}
    assert quoted(estimated_duration_min=None) is None
    job = client.get("/api/jobs?limit=1").json()[0]
    assert client.get(f"/api/jobs/{job['id']}").json()["quote"] is None
    assert GPU.objects.count() == 3
