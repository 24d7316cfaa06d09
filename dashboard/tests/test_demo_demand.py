import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dashboard.demo import demand
from dashboard.demo.catalog import CLUSTERS, CUSTOMERS
from dashboard.demo.demand import Board, JobView, Request

MONDAY = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
NUMBERS = iter(range(1, 10**6))


def view(**fields: Any) -> JobView:
    defaults: dict[str, Any] = {
        "job_id": next(NUMBERS),
        "name": "fold-1",
        "customer": "Helix Biosciences",
        "gpu_count": 8,
        "running": True,
        "submitted_at": MONDAY,
        "started_at": MONDAY,
        "estimated_duration_min": 100,
    }
    return JobView(**{**defaults, **fields})


def ask(board: Board, *, share: float = 0.8, seed: int = 1) -> list[Request]:
    return demand.next_requests(board, share=share, pace=demand.LIVE, clusters=CLUSTERS, rng=random.Random(seed))


def test_an_empty_fleet_is_asked_for_until_the_queue_is_full() -> None:
    assert len(ask(Board([], 256))) == demand.LONGEST_QUEUE


def test_what_is_missing_is_asked_for_and_not_more() -> None:
    sold = [view(gpu_count=25) for _ in range(8)]
    requests = ask(Board(sold, 256))
    assert 0 < sum(one.gpu_count for one in requests[:-1]) + 1 <= 0.8 * 256 - 200 + 1


@pytest.mark.parametrize("gpus", [205, 256])
def test_a_fleet_that_is_sold_is_asked_for_nothing(gpus: int) -> None:
    assert ask(Board([view(gpu_count=gpus)], 256)) == []


def test_a_full_queue_keeps_customers_away() -> None:
    assert ask(Board([view(running=False, gpu_count=1) for _ in range(demand.LONGEST_QUEUE)], 256)) == []


def test_the_same_seed_asks_the_same() -> None:
    assert ask(Board([], 256), seed=4) == ask(Board([], 256), seed=4) != ask(Board([], 256), seed=5)


def test_every_request_is_one_that_its_cluster_can_serve_one_day() -> None:
    counts = {(cluster.name, node.model.short): 0 for cluster in CLUSTERS for node in cluster.nodes()}
    for cluster in CLUSTERS:
        for node in cluster.nodes():
            counts[cluster.name, node.model.short] += 8
    quotas = {customer.name: customer.gpu_quota for customer in CUSTOMERS}
    for seed in range(60):
        for one in ask(Board([], 256), seed=seed):
            preferred = one.gpu_type.split("|")[0].lower()
            assert one.gpu_count <= counts[one.cluster, preferred]
            assert one.gpu_count <= quotas[one.customer]
            assert 2 <= one.estimated_duration_min <= 15


def test_customers_mostly_but_not_always_mind_their_quota() -> None:
    """So that quota bites now and then."""
    full = [view(customer="Tidepool Labs", gpu_count=8)]
    asked = [one for seed in range(200) for one in ask(Board(full, 256), seed=seed)]
    over = [one for one in asked if one.customer == "Tidepool Labs"]
    assert 0 < len(over) < len(asked) / 20


def test_the_day_has_a_rhythm_and_the_week_too() -> None:
    night, saturday = MONDAY.replace(hour=2), MONDAY + timedelta(days=5)
    assert demand.busy_share(night) < demand.busy_share(saturday) < demand.busy_share(MONDAY)
    assert demand.busy_share(night) > 0.5 and demand.busy_share(MONDAY) < 1  # noqa: PT018  (one range)


def test_a_job_ends_the_same_way_whenever_it_is_asked() -> None:
    first = demand.ending_of(view(name="fold-7"), seed=3)
    assert demand.ending_of(view(name="fold-7"), seed=3) == first
    assert demand.ending_of(view(name="fold-8"), seed=3) != first


def test_most_jobs_complete_near_their_estimate_and_some_fail_before_it() -> None:
    endings = [demand.ending_of(view(name=f"job-{number}"), seed=1) for number in range(1000)]
    failed = [one for one in endings if one.status == "failed"]
    assert 30 < len(failed) < 100
    assert all(one.reason and one.at < MONDAY + timedelta(minutes=80) for one in failed)
    completed = [one for one in endings if one.status == "completed"]
    assert len(failed) + len(completed) == 1000
    assert all(MONDAY + timedelta(minutes=70) <= one.at <= MONDAY + timedelta(minutes=104) for one in completed)


def test_only_our_own_customers_lose_patience() -> None:
    waiting = view(running=False, started_at=None)
    board = Board([waiting, view(running=False, ours=False), view()], 256)
    assert demand.given_up(board, now=MONDAY + timedelta(minutes=6), patience=timedelta(minutes=6)) == []
    late = MONDAY + timedelta(minutes=6, seconds=1)
    assert demand.given_up(board, now=late, patience=timedelta(minutes=6)) == [waiting.job_id]
