"""The large fleet, in small: it keeps the house's promises, and an installation that is in use is left alone."""

from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from clusters.models import GPU
from dashboard.queries import leakage
from jobs.models import Allocation, Job
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db


def test_it_makes_what_was_asked_for_and_the_ledger_adds_up() -> None:
    call_command("seed_large", gpus=64, jobs=200)
    assert GPU.objects.count() == 64
    assert 190 <= Job.objects.count() <= 200
    assert set(Job.objects.values_list("status", flat=True)) == {"completed", "running", "queued"}
    assert Allocation.objects.count() == 8 * Job.objects.exclude(status="queued").count()
    now = timezone.now()
    account = leakage("USD", start=now - timedelta(days=30), end=now).account
    parts = [getattr(account, name) for name in account.__dataclass_fields__ if name not in ("group", "registered")]
    assert account.registered == sum(parts) > 0
    assert account.sold > 0


def test_it_leaves_a_house_that_is_in_use_alone() -> None:
    alice()
    with pytest.raises(CommandError, match="nothing changed"):
        call_command("seed_large", gpus=64, jobs=200)
    assert not GPU.objects.exists()
