"""How well starts were foretold, against instants of this file's own choosing."""

from datetime import datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from apikeys.tests.factories import client_with, make_key
from clusters.tests.factories import make_gpu
from dashboard import queries
from jobs.models import JobEvent, StartEstimate
from jobs.tests.factories import NOW, make_job

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


def foretold(minutes_off: float | None, *, at: datetime = NOW, source: str = "scheduler") -> None:
    """An estimate made at this instant, whose job started so many minutes later than it said; None: not yet."""
    job = make_job(submitted_at=at)
    StartEstimate.objects.create(job=job, made_at=at, starts_at=at + 60 * MINUTE, source=source)
    if minutes_off is not None:
        started = at + (60 + minutes_off) * MINUTE
        JobEvent.objects.create(job=job, at=started, from_status="queued", to_status="running", actor="scheduler")


def test_those_that_have_started_are_scored() -> None:
    for minutes_off in (-10, 0, 1, 2, 40, None):
        foretold(minutes_off)
    foretold(5, at=NOW - timedelta(days=1))
    report = queries.estimates(start=NOW, end=NOW + MINUTE)
    assert (report.made, report.score.scored, report.score.held) == (6, 5, 3)
    assert (report.score.held_share, report.held_pct) == (0.6, 60)
    assert (report.p50, report.p90) == (2 * MINUTE, 28 * MINUTE)


def test_each_source_has_its_score() -> None:
    foretold(0)
    foretold(2)
    foretold(30, source="what_if")
    foretold(None, source="explanation")
    report = queries.estimates(start=NOW, end=NOW + MINUTE)
    assert [(one.source, one.score.scored, one.score.held, one.score.error_p50_s) for one in report.by_source] == [
        ("scheduler", 2, 1, 60.0),
        ("what_if", 1, 0, 1800.0),
    ]


def test_the_api_gives_them_over_its_days() -> None:
    now = timezone.now()
    foretold(3, at=now - timedelta(days=3), source="what_if")
    foretold(0, at=now - timedelta(days=30))
    api = client_with(make_key(permissions=["read"]))
    body = api.get("/api/dashboard/estimates?days=7").json()
    assert {name: body[name] for name in ("made", "scored", "held", "held_share", "error_p50_s", "error_p90_s")} == {
        "made": 1,
        "scored": 1,
        "held": 0,
        "held_share": 0.0,
        "error_p50_s": 180.0,
        "error_p90_s": 180.0,
    }
    assert [(one["said_by"], one["scored"], one["held"]) for one in body["by_source"]] == [("what_if", 1, 0)]
    assert api.get("/api/dashboard/estimates?currency=USD").status_code == 400


def test_the_home_page_has_their_card(client: Client) -> None:
    make_gpu()
    client.force_login(User.objects.create_superuser("operator"))
    assert "none of their jobs has started yet" in client.get("/admin/live/").content.decode()
    foretold(3, at=timezone.now() - timedelta(days=3))
    page = client.get("/admin/live/").content.decode()
    assert "Start estimates that held" in page
    assert "off by 3 min at the median" in page
    assert "The scheduler&#x27;s reservations: 0 of 1" in page
