"""Whom a plan preempts for whom, on plain objects; peers' bugs among them."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.placement import NodeView, Plan, Preempting, RunningJob, Snapshot, TenantView, WaitCode, WaitingJob, plan
from jobs.placement.forecasting import forecast
from jobs.tests.test_placement import H100, NOON, reasons, said, started

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
TERMS = {1: Preempting(grace=MINUTE, min_run=10 * MINUTE)}


def waits(number: int, gpus: int, *, priority: int = 1, tenant: int | None = None, **fields: object) -> WaitingJob:
    since = NOON - HOUR + timedelta(seconds=number)
    return WaitingJob(number, 1, tenant, gpus, "", priority, since, **fields)  # type: ignore[arg-type]


def runs(
    number: int, nodes: dict[int, int], *, priority: int = 5, hours: float = 1, tenant: int | None = None
) -> RunningJob:
    """A job that has run for so many hours, and was submitted when it started."""
    since = NOON - hours * HOUR
    return RunningJob(number, 1, tenant, H100, nodes, since, None, sum(nodes.values()), priority, since)


def world(
    *jobs: WaitingJob, free: dict[int, int], running: list[RunningJob], terms: object = TERMS, **fields: object
) -> Snapshot:
    nodes = [
        NodeView(number, 1, f"node-{number}", {H100: [number * 100 + index for index in range(count)]})
        for number, count in free.items()
    ]
    values = {"tenants": {}, "largest_node": {(1, H100): 8}, "running": running, "preempting": terms, **fields}
    return Snapshot(jobs, nodes, **values)  # type: ignore[arg-type]


def decide(snapshot: Snapshot, now: datetime = NOON) -> Plan:
    return plan(snapshot, now)


def victims(result: Plan) -> dict[int, list[int]]:
    return {one.job.job_id: sorted(victim.job_id for victim in one.victims) for one in result.preemptions}


def test_a_job_of_lower_priority_gives_way_after_its_grace() -> None:
    result = decide(world(waits(1, 4), free={1: 2}, running=[runs(91, {1: 6})]))
    assert victims(result) == {1: [91]}
    assert result.preemptions[0].at == NOON + MINUTE
    assert result.preemptions[0].why[91] == "for job 1, whose priority is 1 and this one's 5"
    assert said(result)[1].sentence == (
        "Needs 4 GPUs of one model; 2 are free. For it 1 of those that run must go, at 2026-03-01 12:01:00 UTC."
    )


def test_nobody_is_preempted_where_the_cluster_does_not_allow_it() -> None:
    assert victims(decide(world(waits(1, 4), free={}, running=[runs(91, {1: 8})], terms={}))) == {}


def test_an_equal_priority_and_a_job_that_has_just_begun_stay() -> None:
    running = [runs(91, {1: 8}, priority=1), runs(92, {2: 8}, hours=0.1)]
    assert victims(decide(world(waits(1, 4), free={}, running=running))) == {}


def test_a_job_that_has_aged_is_no_victim() -> None:
    old = replace(runs(91, {1: 8}, priority=5), submitted_at=NOON - timedelta(days=5))
    assert victims(decide(world(waits(1, 4), free={}, running=[old]))) == {}


def test_the_fewest_go_and_of_those_who_lose_the_least() -> None:
    """kueue#10131: more victims than needed."""
    running = [
        runs(91, {1: 2}),
        runs(92, {1: 2}),
        runs(93, {1: 4}, hours=9),
        runs(94, {2: 4}, hours=2),
        runs(95, {2: 4}),
    ]
    assert victims(decide(world(waits(1, 4), free={}, running=running))) == {1: [95]}


def test_what_is_free_already_counts_and_nobody_goes_for_it() -> None:
    running = [runs(91, {1: 1}), runs(92, {1: 4})]
    assert victims(decide(world(waits(1, 4), free={1: 3}, running=running))) == {1: [91]}


def test_a_gang_over_nodes_takes_what_it_needs_and_no_more() -> None:
    running = [runs(91, {1: 8}), runs(92, {2: 4}), runs(93, {2: 4}, hours=3)]
    assert victims(decide(world(waits(1, 12), free={}, running=running))) == {1: [91, 92]}


def test_what_is_free_of_a_claim_goes_to_nobody_else() -> None:
    result = decide(world(waits(1, 8), waits(2, 2, priority=2), free={1: 2}, running=[runs(91, {1: 6})]))
    assert started(result) == {}


def test_a_claim_waits_for_its_victims_and_preempts_nobody_else() -> None:
    marked = replace(runs(91, {1: 6}), preempt_at=NOON + MINUTE, preempt_for=1)
    claims = waits(1, 4, claimed_at=NOON - MINUTE)
    result = decide(world(claims, free={1: 2}, running=[marked, runs(92, {2: 8})]))
    assert (victims(result), result.spared, result.unclaimed) == ({}, [], [])
    assert reasons(result) == {1: WaitCode.CAPACITY}


def test_what_was_freed_goes_to_its_claimant_before_anybody() -> None:
    """kueue#3779: the victim, which outranks everybody since it has aged, does not take its GPUs back."""
    victim = waits(91, 6, priority=5)
    victim = replace(victim, submitted_at=NOON - timedelta(days=9))
    result = decide(world(victim, waits(1, 4, claimed_at=NOON - MINUTE), free={1: 8}, running=[]))
    assert list(started(result)) == [1]


def test_a_victim_stays_when_its_job_is_gone_or_starts_elsewhere() -> None:
    marked = replace(runs(91, {1: 8}), preempt_at=NOON + MINUTE, preempt_for=1)
    assert decide(world(free={}, running=[marked])).spared == [91]
    elsewhere = decide(world(waits(1, 4, claimed_at=NOON), free={2: 4}, running=[marked]))
    assert (list(started(elsewhere)), elsewhere.spared) == ([1], [91])


def test_nobody_reserves_what_a_victim_gives_back_to_another() -> None:
    marked = replace(runs(91, {1: 4}), preempt_at=NOON + MINUTE, preempt_for=1)
    claims = waits(1, 4, claimed_at=NOON - MINUTE)
    assert decide(world(claims, waits(2, 4), free={}, running=[marked])).reservations == {}
    assert list(decide(world(waits(2, 4), free={}, running=[replace(marked, preempt_for=None)])).reservations) == [1]


def test_a_claim_ends_when_its_tenant_may_not_start_it_any_more() -> None:
    marked = replace(runs(91, {1: 8}), preempt_at=NOON + MINUTE, preempt_for=1)
    claims = waits(1, 4, tenant=7, claimed_at=NOON)
    result = decide(world(claims, free={}, running=[marked], tenants={7: TenantView(quota=2, held=0)}))
    assert (result.spared, result.unclaimed, reasons(result)) == ([91], [1], {1: WaitCode.QUOTA})


def test_a_tenant_at_its_quota_preempts_nobody() -> None:
    tenants = {7: TenantView(quota=4, held=4)}
    assert victims(decide(world(waits(1, 4, tenant=7), free={}, running=[runs(91, {1: 8})], tenants=tenants))) == {}


def lenders(*, lent: int = 8, held: int = 0, limit: int = 8) -> dict[int, TenantView]:
    """Tenant 1 lends, and tenant 2 borrows above its quota of four."""
    return {1: TenantView(lent, 0, lends=True), 2: TenantView(4, held, borrow_limit=limit)}


def test_idle_quota_is_lent_up_to_the_borrowers_limit() -> None:
    jobs = [waits(number, 2, tenant=2) for number in range(1, 7)]
    result = decide(world(*jobs, free={1: 8, 2: 8}, running=[], tenants=lenders(limit=4)))
    assert list(started(result)) == [1, 2, 3, 4]
    assert said(result)[5].sentence.endswith("Of others' idle quota it may borrow 0 more now.")


def test_what_is_borrowed_is_never_more_than_what_lies_idle() -> None:
    jobs = [waits(number, 2, tenant=2) for number in range(1, 7)]
    assert list(started(decide(world(*jobs, free={1: 8, 2: 8}, running=[], tenants=lenders(lent=2))))) == [1, 2, 3]


def test_a_lender_that_has_jobs_of_its_own_in_the_queue_lends_that_much_less() -> None:
    """Its job can't start now, four GPUs being free in two places; the borrower would stand in its way."""
    own, other = waits(9, 7, tenant=1, priority=9), waits(1, 4, tenant=2)
    result = decide(world(own, other, free={1: 4, 2: 4}, running=[], tenants=lenders(held=4)))
    assert started(result) == {}


def test_nothing_is_borrowed_where_it_could_not_be_reclaimed() -> None:
    result = decide(world(waits(1, 8, tenant=2), free={1: 8}, running=[], tenants=lenders(), terms={}))
    assert reasons(result) == {1: WaitCode.QUOTA}


def test_who_borrows_preempts_nobody() -> None:
    running = [runs(91, {1: 8}, priority=9)]
    result = decide(world(waits(1, 4, tenant=2), free={}, running=running, tenants=lenders(held=4)))
    assert (victims(result), reasons(result)) == ({}, {1: WaitCode.CAPACITY})


def test_a_lender_reclaims_from_the_borrowed_jobs_first_whatever_their_priority() -> None:
    """Of the borrower's jobs the one that started last runs on borrowed quota; the other is within its own."""
    running = [
        runs(91, {1: 4}, tenant=2, priority=1, hours=3),
        runs(92, {1: 4}, tenant=2, priority=1, hours=2),
    ]
    result = decide(world(waits(1, 4, tenant=1, priority=9), free={}, running=running, tenants=lenders(held=8)))
    assert victims(result) == {1: [92]}
    assert result.preemptions[0].why[92].endswith("whose tenant reclaims the idle quota that this one runs on")


def test_who_may_not_borrow_is_not_reclaimed_from_when_its_quota_is_lowered() -> None:
    running = [runs(91, {1: 8}, tenant=2, priority=1)]
    tenants = lenders(held=8, limit=0)
    assert victims(decide(world(waits(1, 4, tenant=1, priority=9), free={}, running=running, tenants=tenants))) == {}


def test_quotas_that_sum_above_the_capacity_starve_nobody_within_its_own() -> None:
    """KAI#1750: two quotas of eight on eight GPUs. Nobody borrows what is not there, nor is anybody evicted for it."""
    tenants = {pk: TenantView(8, 8 if pk == 1 else 0, lends=True, borrow_limit=8) for pk in (1, 2)}
    running = [runs(91, {1: 8}, tenant=1, priority=5)]
    result = decide(world(waits(1, 4, tenant=2, priority=5), free={}, running=running, tenants=tenants))
    assert (victims(result), reasons(result)) == ({}, {1: WaitCode.CAPACITY})


def test_a_forecast_counts_on_the_preemption() -> None:
    snapshot = world(waits(1, 8), free={}, running=[runs(91, {1: 8})])
    assert forecast(snapshot, NOON, wanted=[1], most_plans=5) == {1: NOON + MINUTE}


@st.composite
def full_nodes(draw: st.DrawFn) -> tuple[Snapshot, int]:
    """Up to three nodes of eight with jobs of other priorities, and one job of priority 1 for one node."""
    running: list[RunningJob] = []
    free = {}
    for node in range(1, draw(st.integers(1, 3)) + 1):
        room = 8
        while room and draw(st.integers(0, 4)):
            size = draw(st.integers(1, room))
            hours = draw(st.integers(1, 9))
            running.append(runs(100 + len(running), {node: size}, priority=draw(st.integers(1, 3)), hours=hours))
            room -= size
        free[node] = room
    count = draw(st.integers(1, 8))
    return world(waits(1, count), free=free, running=running), count


@settings(max_examples=150)
@given(full_nodes())
def test_no_smaller_and_no_cheaper_set_of_victims_would_do(case: tuple[Snapshot, int]) -> None:
    """All sets of victims of one node are tried, as plainly as can be."""
    snapshot, count = case
    result = decide(snapshot)
    free = {node.node_id: len(node.free[H100]) for node in snapshot.nodes}
    options = []
    for node_id, room in free.items():
        here = [one for one in snapshot.running if node_id in one.nodes and one.priority > 1]
        for size in range(len(here) + 1):
            for chosen in combinations(here, size):
                if room + sum(one.held for one in chosen) >= count:
                    lost = sum(one.held * (NOON - one.started_at).total_seconds() for one in chosen)
                    options.append((size, lost))
    if not options:
        assert not result.starts
        assert not result.preemptions
    elif min(options)[0] == 0:
        assert list(started(result)) == [1]
    else:
        chosen = tuple(result.preemptions[0].victims)
        lost = sum(one.held * (NOON - one.started_at).total_seconds() for one in chosen)
        assert (len(chosen), lost) == min(options)
