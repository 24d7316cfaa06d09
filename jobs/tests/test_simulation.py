"""The simulation against worlds that can be reckoned by hand, and against oracles that know nothing of it."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from jobs.placement import NodeView, Preempting, RunningJob, Snapshot, Start, TenantView, WaitingJob, plan
from jobs.placement.forecasting import forecast
from jobs.simulation import (
    Addition,
    Changes,
    Course,
    Holding,
    Length,
    Source,
    changed,
    fifo,
    simulate,
    stranded_share,
    summary,
    waits_of,
)
from jobs.tests.factories import NOW

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
ALICE = 1


def by_estimate(job: RunningJob) -> Length:
    """Jobs run as long as they say."""
    if job.minutes is None:
        return Length(None, Source.UNKNOWN)
    return Length(job.minutes * MINUTE, Source.ESTIMATE)


def job(job_id: int, gpus: int, minutes: int | None, *, at: datetime = NOW, priority: int = 5) -> WaitingJob:
    """Alice's job."""
    return WaitingJob(job_id, 1, ALICE, gpus, "", priority, at, minutes)


def world(jobs: Sequence[WaitingJob], *, nodes: int = 1, size: int = 4, quota: int = 100) -> Snapshot:
    """Nodes of A100s that are all idle."""
    views = [NodeView(pk, 1, f"node-{pk}", {"A100": range(pk * 10, pk * 10 + size)}) for pk in range(1, nodes + 1)]
    return Snapshot(jobs, views, {ALICE: TenantView(quota, 0)}, {(1, "A100"): size}, gpu_total=nodes * size)


def starts_of(course: Course) -> dict[int, float]:
    """When each job started, in minutes after noon."""
    return {one.job_id: (one.start - NOW) / MINUTE for one in course.holdings}


def test_a_small_world_goes_as_reckoned_by_hand() -> None:
    """Four GPUs. Job 1 takes three for an hour; job 2 wants four and has a reservation at 1:00; job 3 is short enough
    to pass, job 4 is not, and starts when job 2 has ended."""
    jobs = [job(1, 3, 60), job(2, 4, 30), job(3, 1, 60), job(4, 1, 61)]
    course = simulate(world(jobs), NOW, lengths=by_estimate, until=NOW + 3 * HOUR)
    assert starts_of(course) == {1: 0, 3: 0, 2: 60, 4: 90}
    assert waits_of(course, course.until).p50_s == 0
    assert waits_of(course, course.until).p95_s == 90 * 60
    assert not course.cut


def test_fifo_lets_nobody_pass() -> None:
    jobs = [job(1, 3, 60), job(2, 4, 30), job(3, 1, 60), job(4, 1, 61)]
    course = simulate(world(jobs), NOW, lengths=by_estimate, until=NOW + 3 * HOUR, policy=fifo)
    assert starts_of(course) == {1: 0, 2: 60, 3: 90, 4: 90}


def test_a_job_comes_when_it_is_submitted_and_not_before() -> None:
    jobs = [job(1, 4, 10), job(2, 4, 10, at=NOW + 25 * MINUTE)]
    course = simulate(world(jobs), NOW, lengths=by_estimate, until=NOW + HOUR)
    assert starts_of(course) == {1: 0, 2: 25}


def test_what_is_beyond_the_horizon_is_not_said() -> None:
    jobs = [job(1, 4, 60), job(2, 4, 60), job(3, 4, None), job(4, 4, 1)]
    course = simulate(world(jobs), NOW, lengths=by_estimate, until=NOW + 3 * HOUR, asked=4)
    assert starts_of(course) == {1: 0, 2: 60, 3: 120}
    assert course.reason == "Needs 4 GPUs of one model; 0 are free."
    waits = waits_of(course, course.until)
    assert (waits.started, waits.waiting, waits.p50_s, waits.p95_s) == (3, 1, 3600, None)
    assert [one.source for one in course.holdings] == [Source.ESTIMATE, Source.ESTIMATE, Source.UNKNOWN]


def test_one_who_runs_past_the_expected_end_goes_on_for_as_long_again() -> None:
    """It was to end half an hour ago; so half an hour from now, as the planner takes it."""
    running = RunningJob(9, 1, ALICE, "A100", {1: 4}, NOW - 90 * MINUTE, 60, 4)
    snapshot = replace(world([job(1, 4, 10)]), nodes=[], running=[running])
    course = simulate(snapshot, NOW, lengths=by_estimate, until=NOW + HOUR)
    assert starts_of(course) == {9: 0, 1: 30}


def test_a_time_limit_cuts_and_says_so() -> None:
    course = simulate(world([job(1, 4, 60), job(2, 4, 60)]), NOW, lengths=by_estimate, until=NOW + HOUR, seconds=0)
    assert course.cut
    assert course.until == NOW + HOUR
    assert starts_of(course) == {1: 0}


def test_events_that_are_close_together_are_one_plan() -> None:
    jobs = [job(number, 1, 60 + number) for number in range(1, 5)] + [job(5, 4, 10)]
    exact = simulate(world(jobs), NOW, lengths=by_estimate, until=NOW + 2 * HOUR)
    coarse = simulate(world(jobs), NOW, lengths=by_estimate, until=NOW + 2 * HOUR, coalesce=5 * MINUTE)
    assert starts_of(exact) == starts_of(coarse)
    assert (exact.plans, coarse.plans) == (5, 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_single_gpu_is_lindleys_recursion(seed: int) -> None:
    """First in, first out on one GPU: each waits for what is left of the wait and the service before it."""
    rng = random.Random(seed)
    arrivals = [
        NOW + sum((rng.expovariate(1 / 50) * MINUTE for _ in range(number)), timedelta()) for number in range(40)
    ]
    arrivals.sort()
    minutes = [rng.randint(1, 90) for _ in arrivals]
    jobs = [job(number, 1, minutes[number], at=at) for number, at in enumerate(arrivals)]
    course = simulate(world(jobs, size=1), NOW, lengths=by_estimate, until=NOW + 1_000 * HOUR)
    wait, expected = timedelta(), {0: arrivals[0]}
    for number in range(1, len(jobs)):
        gap = arrivals[number] - arrivals[number - 1]
        wait = max(timedelta(), wait + minutes[number - 1] * MINUTE - gap)
        expected[number] = arrivals[number] + wait
    assert {one.job_id: one.start for one in course.holdings} == expected
    assert any(expected[number] > arrivals[number] for number in expected)


def anew(snapshot: Snapshot, now: datetime) -> Sequence[Start]:
    return plan(replace(snapshot, jobs=list(snapshot.jobs)), now).starts


@pytest.mark.parametrize("seed", range(8))
def test_whoever_decides_the_course_is_the_same(seed: int) -> None:
    """The plan, the same plan of a queue that is made anew each time, and the planner's own forecast."""
    rng = random.Random(seed)
    jobs = [
        job(number, rng.choice([1, 1, 2, 4, 8]), rng.randint(5, 90), priority=rng.randint(1, 3))
        for number in range(1, 40)
    ]
    snapshot = world(jobs, nodes=2, quota=rng.choice([6, 100]))
    course = simulate(snapshot, NOW, lengths=by_estimate, until=NOW + 500 * HOUR)
    whole = simulate(snapshot, NOW, lengths=by_estimate, until=NOW + 500 * HOUR, policy=anew)
    assert starts_of(course) == starts_of(whole)
    said = forecast(snapshot, NOW, wanted=[one.job_id for one in jobs], most_plans=1_000)
    assert {one.job_id: one.start for one in course.holdings} == said


def test_changes_are_made_to_a_copy() -> None:
    snapshot = world([], nodes=2)
    changes = Changes(quotas={ALICE: 3}, drained=frozenset([2]), additions=[Addition(1, "H100", 20, 8)])
    other = changed(snapshot, changes)
    assert other.tenants[ALICE].quota == 3
    assert [(node.hostname, len(gpus)) for node in other.nodes for gpus in node.free.values()] == [
        ("node-1", 4),
        ("new-1", 8),
        ("new-2", 8),
        ("new-3", 4),
    ]
    assert other.largest_node == {(1, "A100"): 4, (1, "H100"): 8}
    assert other.gpu_total == 28
    assert snapshot == world([], nodes=2)


def test_what_runs_on_a_drained_node_leaves_nothing_behind() -> None:
    running = RunningJob(9, 1, ALICE, "A100", {1: 4}, NOW, 60, 4)
    snapshot = replace(world([job(1, 4, 10)]), nodes=[], running=[running])
    course = simulate(
        changed(snapshot, Changes(drained=frozenset([1]))), NOW, lengths=by_estimate, until=NOW + 9 * HOUR
    )
    assert starts_of(course) == {9: 0}


def test_percentiles_are_by_nearest_rank() -> None:
    waits = summary([5.0, 1.0, 3.0, None])
    assert (waits.p50_s, waits.p95_s) == (3.0, None)
    assert summary([float(number) for number in range(1, 101)]).p95_s == 95.0
    assert summary([]).p50_s is None


def test_stranded_is_what_is_idle_beside_something() -> None:
    """Two nodes of four for two hours: three GPUs of one are held for the first. Idle: 1 + 4 + 4 + 4 GPU-hours, of
    which one is beside something."""
    held = Holding(1, 1, ALICE, "A100", {1: 3}, 3, NOW, NOW + HOUR)
    assert stranded_share([held], {1: 4, 2: 4}, NOW, NOW + 2 * HOUR) == pytest.approx(1 / 13)
    full = Holding(1, 1, ALICE, "A100", {1: 4}, 4, NOW)
    assert stranded_share([full], {1: 4}, NOW, NOW + HOUR) is None


def test_a_preempted_job_runs_again_when_there_is_room() -> None:
    """The urgent one comes after half an hour, runs for ten minutes a minute later; then the other begins anew."""
    low = replace(job(1, 4, 60), priority=5)
    urgent = replace(job(2, 4, 10, priority=1), submitted_at=NOW + HOUR / 2)
    terms = {1: Preempting(grace=MINUTE, min_run=MINUTE)}
    snapshot = replace(world([low, urgent], nodes=1), preempting=terms)
    course = simulate(snapshot, NOW, lengths=by_estimate, until=NOW + 5 * HOUR)
    assert [(one.job_id, one.start - NOW, (one.end or NOW) - NOW) for one in course.holdings] == [
        (1, 0 * MINUTE, 31 * MINUTE),
        (2, 31 * MINUTE, 41 * MINUTE),
        (1, 41 * MINUTE, 101 * MINUTE),
    ]
