"""Reservations, backfill and ageing: by examples, and on random worlds that are run forward."""

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.placement import NodeView, Plan, RunningJob, Snapshot, TenantView, WaitCode, WaitingJob, plan
from jobs.placement.forecasting import forecast
from jobs.placement.reserving import End, Shadow, shadow
from jobs.tests.test_placement import H100, NOON, after, nodes_of, reasons, said, started

HOUR = timedelta(hours=1)


def waits(
    number: int, gpus: int, minutes: int | None = None, *, tenant: int | None = None, days: int = 0, priority: int = 5
) -> WaitingJob:
    """A job that has waited for so many days, but for a second times its number."""
    since = NOON - timedelta(days=days) + timedelta(seconds=number)
    return WaitingJob(number, 1, tenant, gpus, "", priority, since, minutes)


def runs(number: int, nodes: dict[int, int], minutes: int | None, *, since: datetime = NOON) -> RunningJob:
    return RunningJob(number, 1, None, H100, nodes, since, minutes, sum(nodes.values()))


def world(*jobs: WaitingJob, free: dict[int, int], running: list[RunningJob], **fields: object) -> Snapshot:
    """Nodes of eight."""
    nodes = [
        NodeView(number, 1, f"node-{number}", {H100: [number * 100 + index for index in range(count)]})
        for number, count in free.items()
    ]
    values = {"tenants": {}, "largest_node": {(1, H100): 8}, "running": running, **fields}
    return Snapshot(jobs, nodes, **values)  # type: ignore[arg-type]


def decide(snapshot: Snapshot) -> Plan:
    return plan(snapshot, NOON)


def test_the_first_job_that_cannot_start_reserves_what_it_will_have_first() -> None:
    running = [runs(91, {1: 4}, 120), runs(92, {2: 6}, 60)]
    reservation = decide(world(waits(1, 8), free={1: 4, 2: 2}, running=running)).reservations[1]
    assert (reservation.job.job_id, reservation.nodes, reservation.at) == (1, {2: 8}, NOON + HOUR)


def test_only_what_ends_before_the_reservation_begins_passes() -> None:
    running = [runs(91, {1: 6}, 60)]
    result = decide(world(waits(1, 8), waits(2, 1), waits(3, 1, 61), waits(4, 1, 60), free={1: 2}, running=running))
    assert list(started(result)) == [4]
    assert reasons(result) == {1: WaitCode.CAPACITY, 2: WaitCode.RESERVED, 3: WaitCode.RESERVED}


def test_other_nodes_and_what_is_spare_beside_the_reservation_are_for_all() -> None:
    running = [runs(91, {1: 6}, 60)]
    result = decide(world(waits(1, 6), waits(2, 2), waits(3, 2), free={1: 2, 2: 2}, running=running))
    assert {number: nodes_of(gpus) for number, gpus in started(result).items()} == {2: [1], 3: [2]}


def test_a_reservation_over_several_nodes_takes_the_fullest_at_its_time() -> None:
    running = [runs(91, {1: 8}, 60), runs(92, {2: 4}, 60), runs(93, {3: 8}, 90)]
    reservation = decide(world(waits(1, 12), free={2: 4}, running=running)).reservations[1]
    assert (reservation.nodes, reservation.at) == ({1: 8, 2: 4}, NOON + HOUR)


def test_without_any_estimate_nothing_is_kept_until_the_job_has_aged() -> None:
    running = [runs(91, {1: 6}, None)]
    young = decide(world(waits(1, 8), waits(2, 1), free={1: 2}, running=running))
    assert (list(started(young)), young.reservations) == ([2], {})
    aged = decide(world(waits(1, 8, days=6), waits(2, 1, 1), free={1: 2}, running=running))
    assert started(aged) == {}
    assert aged.reservations[1].at is None


def test_admitted_by_sum_and_unplaceable_by_node_keeps_nothing_from_the_others() -> None:
    """kueue#1476: four GPUs of the node are out of service, so that no end of anything gives the job its eight."""
    result = decide(world(waits(1, 8, days=6), waits(2, 2), free={1: 2}, running=[runs(91, {1: 2}, 60)]))
    assert list(started(result)) == [2]
    assert result.reservations == {}


def test_an_aged_job_goes_before_any_priority_and_aged_jobs_go_as_they_aged() -> None:
    low = WaitingJob(1, 1, None, 1, "", 10, NOON - timedelta(days=10))
    lower = WaitingJob(2, 1, None, 1, "", 2, NOON - timedelta(days=3))
    urgent = WaitingJob(3, 1, None, 1, "", 1, NOON - HOUR)
    result = decide(world(urgent, low, lower, free={1: 8}, running=[]))
    assert list(started(result)) == [2, 1, 3]


def test_an_aged_job_keeps_its_tenants_quota_for_itself() -> None:
    tenants = {7: TenantView(quota=8, held=4), 8: TenantView(quota=8, held=0)}
    old, young, other = waits(1, 8, tenant=7, days=6), waits(2, 1, tenant=7), waits(3, 1, tenant=8)
    result = decide(world(old, young, other, free={1: 4}, running=[], tenants=tenants))
    assert list(started(result)) == [3]
    assert said(result)[1].sentence == "Needs 8 GPUs; the tenant holds 4 of its quota of 8."
    assert said(result)[2].sentence.endswith("The rest is kept for the tenant's job 1, which has waited longest.")


def test_a_job_past_its_estimate_is_expected_to_go_on_for_as_long_again() -> None:
    assert runs(1, {}, 60, since=NOON - 3 * HOUR).ends_at(NOON) == NOON + 2 * HOUR
    assert runs(1, {}, 60, since=NOON - HOUR).ends_at(NOON) == NOON + timedelta(minutes=1)
    assert runs(1, {}, None).ends_at(NOON) is None


def test_a_forecast_waits_for_what_runs_and_for_who_is_ahead() -> None:
    snapshot = world(waits(1, 8, 30), waits(2, 8, 30), waits(3, 9), free={}, running=[runs(91, {1: 8}, 60)])
    found = forecast(snapshot, NOON, wanted=[1, 2, 3], most_plans=20)
    assert found == {1: NOON + HOUR, 2: NOON + 1.5 * HOUR}


@st.composite
def busy_worlds(draw: st.DrawFn) -> Snapshot:
    """Nodes of eight with jobs that run and jobs that wait, nearly all with estimates."""
    estimate = st.one_of(st.none(), st.integers(1, 6).map(lambda n: n * 20))
    free: dict[int, int] = {}
    running: list[RunningJob] = []
    for number in range(1, draw(st.integers(1, 4)) + 1):
        room = 8
        while room and draw(st.booleans()):
            size = draw(st.integers(1, room))
            since = NOON - draw(st.integers(0, 2)) * HOUR
            running.append(runs(900 + len(running), {number: size}, draw(estimate), since=since))
            room -= size
        free[number] = room
    sizes, days, owners = st.integers(1, 12), st.sampled_from([0, 0, 0, 6]), st.sampled_from([None, 1, 2])
    jobs = [
        waits(number, draw(sizes), draw(estimate), tenant=draw(owners), days=draw(days))
        for number in range(draw(st.integers(1, 12)))
    ]
    tenants = {1: TenantView(quota=12, held=0), 2: TenantView(quota=6, held=0)}
    return world(*jobs, free=free, running=running, tenants=tenants, gpu_total=32)


@settings(max_examples=60)
@given(busy_worlds())
def test_nothing_that_passes_delays_the_reservation(snapshot: Snapshot) -> None:
    """What was started beside the reservation is run forward alone with its holder."""
    result = decide(snapshot)
    for reservation in result.reservations.values():
        if reservation.at is None:
            continue
        later = after(snapshot, result)
        given_out = [
            RunningJob(start.job.job_id, 1, None, H100, start.nodes, NOON, start.job.minutes, start.job.gpu_count)
            for start in result.starts
        ]
        alone = Snapshot(
            [reservation.job], later.nodes, {1: TenantView(99, 0), 2: TenantView(99, 0)}, later.largest_node,
            running=[*snapshot.running, *given_out], gpu_total=32,
        )  # fmt: skip
        found = forecast(alone, NOON, wanted=[reservation.job.job_id], most_plans=50)
        assert found[reservation.job.job_id] <= reservation.at


@settings(max_examples=60)
@given(busy_worlds())
def test_no_gpu_is_idle_that_a_waiting_job_could_have_but_for_a_reservation(snapshot: Snapshot) -> None:
    result = decide(snapshot)
    left = after(snapshot, result)
    for one in result.waiting():
        code = said(result)[one.job_id].code
        sizes = [len(view.free.get(H100, ())) for view in left.nodes]
        fits = max(sizes, default=0) >= one.gpu_count if one.gpu_count <= 8 else sum(sizes) >= one.gpu_count
        assert not fits or code in (WaitCode.QUOTA, WaitCode.RESERVED)
        assert code is not WaitCode.RESERVED or result.reservations


@settings(max_examples=25, deadline=None)
@given(busy_worlds(), st.integers(1, 8))
def test_no_job_starves(snapshot: Snapshot, size: int) -> None:
    """A stream of younger jobs of better priority, as long as there is room for them, does not keep an aged job from
    its GPUs for longer than what runs, and what aged before it, takes to end.

    The bound: priority × AGES_IN until it is aged; from then on at most (aged ahead + 1) × the longest run.
    """
    target = waits(500, size, 60, days=6)
    ahead = [one for one in snapshot.jobs if one.submitted_at < target.submitted_at]
    running = [runs(one.job_id, dict(one.nodes), one.minutes or 120, since=NOON) for one in snapshot.running]
    queue = [replace(one, tenant_id=None, minutes=one.minutes or 120) for one in snapshot.jobs]
    stream = [waits(1000 + number, 1, 120, priority=1) for number in range(60)]
    snapshot = replace(snapshot, jobs=[target, *queue, *stream], running=running)
    found = forecast(snapshot, NOON, wanted=[500], most_plans=400)
    assert found[500] <= NOON + (len(ahead) + 1) * timedelta(minutes=120)


def test_the_clusters_keep_their_own_reservations() -> None:
    far = WaitingJob(2, 2, None, 8, "", 5, NOON)
    nodes = [NodeView(1, 1, "a", {H100: [100]}), NodeView(2, 2, "b", {H100: [200]})]
    largest = {(1, H100): 8, (2, H100): 8}
    running = [runs(91, {1: 7}, 60), RunningJob(92, 2, None, H100, {2: 7}, NOON, 90, 7)]
    result = decide(Snapshot([waits(1, 8), far], nodes, {}, largest, running=running))
    assert {cluster: kept.job.job_id for cluster, kept in result.reservations.items()} == {1: 1, 2: 2}


def test_of_nodes_that_have_enough_at_the_same_instant_the_tightest_is_kept() -> None:
    found = shadow({}, [End(NOON, 1, 8), End(NOON, 2, 4), End(NOON + timedelta(minutes=1), 3, 4)], 4, one_node=True)
    assert found == Shadow(NOON, {2: 4}, {2: 0})
