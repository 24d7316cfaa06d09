"""The pure planner, on plain objects: each rule by an example, and the promises on random worlds."""

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.placement import (
    NodeView,
    Plan,
    Reason,
    Snapshot,
    TenantView,
    WaitCode,
    WaitingJob,
    kind_of,
    matches,
    sentence,
    takes,
)
from jobs.placement import plan as plan_at
from jobs.tests.oracle import naive_plan

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
H100, A100, A10 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA A10"


def plan(snapshot: Snapshot) -> Plan:
    return plan_at(snapshot, NOON)


def job(number: int, gpus: int = 1, *, tenant: int | None = None, priority: int = 5, kind: str = "") -> WaitingJob:
    """Job 3 was submitted a minute after job 2."""
    return WaitingJob(number, 1, tenant, gpus, kind, priority, NOON + number * timedelta(minutes=1))


def node(number: int, free: int, model: str = H100, *, cluster: int = 1) -> NodeView:
    """Node 3 has GPUs 300, 301, …"""
    return NodeView(number, cluster, f"node-{number}", {model: [number * 100 + index for index in range(free)]})


def world(*jobs: WaitingJob, nodes: list[NodeView], size: int = 8, **fields: object) -> Snapshot:
    largest = {(n.cluster_id, model): size for n in nodes for model in n.free}
    return Snapshot(jobs, nodes, **{"tenants": {}, "largest_node": largest, **fields})  # type: ignore[arg-type]


def started(result: Plan) -> dict[int, tuple[int, ...]]:
    return {start.job.job_id: start.gpu_ids for start in result.starts}


def reasons(result: Plan) -> dict[int, WaitCode]:
    return {job_id: wait.reason.code for wait in result.waits for job_id in wait.job_ids}


def nodes_of(gpu_ids: tuple[int, ...]) -> list[int]:
    return sorted({gpu_id // 100 for gpu_id in gpu_ids})


def test_the_highest_priority_goes_first_and_then_the_oldest() -> None:
    result = plan(world(job(1), job(2, priority=1), job(3), nodes=[node(1, 2)]))
    assert list(started(result)) == [2, 1]
    assert reasons(result) == {3: WaitCode.CAPACITY}


def test_within_a_priority_the_tenant_with_the_smaller_share_goes_first() -> None:
    tenants = {1: TenantView(quota=10, held=5), 2: TenantView(quota=10, held=0)}
    jobs = [job(n, tenant=1) for n in (1, 2)] + [job(n, tenant=2) for n in (3, 4, 5, 6, 7, 8)]
    result = plan(world(*jobs, nodes=[node(1, 8)], tenants=tenants))
    assert list(started(result)) == [3, 4, 5, 6, 7, 1, 8, 2]


def test_a_job_goes_where_it_fits_tightest() -> None:
    result = plan(world(job(1, 2), nodes=[node(1, 8), node(2, 3), node(3, 1), node(4, 2)]))
    assert nodes_of(started(result)[1]) == [4]


def test_a_job_that_fits_a_node_waits_for_one_rather_than_be_split() -> None:
    result = plan(world(job(1, 4), nodes=[node(1, 3), node(2, 3)]))
    assert [wait.reason for wait in result.waits] == [
        Reason(WaitCode.FRAGMENTED, {"needs": 4, "wants": "one model", "free": 6, "best": 3})
    ]


def test_a_job_larger_than_a_node_gets_the_fewest_nodes_and_the_rest_where_it_fits_tightest() -> None:
    result = plan(world(job(1, 11), nodes=[node(1, 5), node(2, 8), node(3, 3), node(4, 8)], size=8))
    assert nodes_of(started(result)[1]) == [2, 3]


def test_a_job_never_mixes_models() -> None:
    result = plan(world(job(1, 10), nodes=[node(1, 8), node(2, 8, A100)]))
    assert reasons(result) == {1: WaitCode.CAPACITY}


def test_preferences_are_tried_in_order_and_any_means_the_most_plentiful() -> None:
    nodes = [node(1, 2, H100), node(2, 8, A100), node(3, 1, A10)]
    result = plan(world(job(1, kind="H100|A100"), job(2, 4, kind="H100|A100"), job(3), nodes=nodes))
    assert {number: nodes_of(gpus) for number, gpus in started(result).items()} == {1: [1], 2: [2], 3: [2]}


def test_of_equally_welcome_models_one_that_has_a_node_for_the_whole_job_comes_first() -> None:
    small = [node(number, 4, A100) for number in range(2, 8)]
    snapshot = Snapshot([job(1, 8)], [node(1, 8), *small], {}, {(1, H100): 8, (1, A100): 4})
    assert nodes_of(started(plan(snapshot))[1]) == [1]
    preferred = Snapshot([job(1, 8, kind="A100|H100")], [node(1, 8), *small], {}, {(1, H100): 8, (1, A100): 4})
    assert nodes_of(started(plan(preferred))[1]) == [2, 3]


def test_the_figures_say_how_things_stand_after_the_plan() -> None:
    result = plan(world(job(1, 4), job(2, 3), nodes=[node(1, 3)]))
    assert started(result).keys() == {2}
    assert result.waits[0].reason.sentence == "Needs 4 GPUs of one model; 0 are free."


def test_what_stands_behind_a_job_that_waits_may_start() -> None:
    result = plan(world(job(1, 8, priority=1), job(2, 1), nodes=[node(1, 4)]))
    assert list(started(result)) == [2]


def test_a_kind_of_which_all_start_is_told_nothing() -> None:
    result = plan(
        world(job(1), job(2), job(3, 4), job(4, 2, tenant=7), nodes=[node(1, 5)], tenants={7: TenantView(9, 0)})
    )
    assert list(started(result)) == [1, 4, 2]
    assert list(result.reasons) == [kind_of(job(3, 4))]


def test_a_rule_about_a_tenant_is_said_before_what_others_of_the_wish_wait_for() -> None:
    tenants = {7: TenantView(quota=9, held=0, active=False), 8: TenantView(quota=4, held=2)}
    aged = replace(job(3, 3, tenant=8), submitted_at=NOON - timedelta(days=9))
    jobs = [job(1), job(2, tenant=7), aged, job(4, tenant=8)]
    result = plan(world(*jobs, nodes=[node(1, 0)], tenants=tenants))
    quota = WaitCode.QUOTA
    assert reasons(result) == {1: WaitCode.CAPACITY, 2: WaitCode.TENANT_INACTIVE, 3: quota, 4: quota}


@pytest.mark.parametrize(
    ("tenant", "code"),
    [
        (TenantView(quota=4, held=3), WaitCode.QUOTA),
        (TenantView(quota=4, held=9), WaitCode.QUOTA),
        (TenantView(quota=8, held=0, active=False), WaitCode.TENANT_INACTIVE),
    ],
)
def test_rules_stand_before_hardware(tenant: TenantView, code: WaitCode) -> None:
    result = plan(world(job(1, 2, tenant=7), nodes=[node(1, 8)], tenants={7: tenant}))
    assert reasons(result) == {1: code}


def test_a_quota_counts_what_the_plan_has_given() -> None:
    result = plan(
        world(*[job(n, 2, tenant=7) for n in range(1, 6)], nodes=[node(1, 8)], tenants={7: TenantView(5, held=1)})
    )
    assert list(started(result)) == [1, 2]
    assert [(wait.reason.figures, wait.job_ids) for wait in result.waits] == [
        ({"needs": 2, "held": 5, "quota": 5}, [3, 4, 5])
    ]


def test_a_cluster_in_maintenance_takes_nothing_and_another_cluster_is_not_used() -> None:
    closed = plan(world(job(1), nodes=[node(1, 8)], closed_clusters=frozenset({1})))
    assert reasons(closed) == {1: WaitCode.CLUSTER_MAINTENANCE}
    elsewhere = plan(world(job(1), nodes=[node(1, 8, cluster=2)]))
    assert reasons(elsewhere) == {1: WaitCode.CAPACITY}


@pytest.mark.parametrize(
    ("entry", "model", "expected"),
    [
        ("a100", A100, True),
        ("A10", A100, False),
        ("A10", A10, True),
        ("nvidia a100-sxm4-80gb", A100, True),
        ("H100 80GB", H100, True),
        ("H100 8", H100, False),
        ("100", H100, False),
        ("MI300X", "AMD MI300X", True),
    ],
)
def test_a_model_is_matched_at_a_words_end(entry: str, model: str, expected: bool) -> None:
    assert matches(entry, model) is expected
    assert takes(f"nothing | {entry} ", model) is expected


def test_every_reason_has_its_sentence() -> None:
    figures = {"needs": 8, "wants": "H100", "free": 9, "best": 5, "held": 3, "quota": 4, "reason": "wait"}
    assert all("{" not in sentence(code, figures) and sentence(code, figures) for code in WaitCode)
    assert sentence("fragmented", figures) == "Needs 8 GPUs of H100 together; 9 are free, at most 5 on one node."


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    """Two clusters of nodes with up to two models, four tenants of which one is inactive, and a queue."""
    nodes = []
    largest: dict[tuple[int, str], int] = {}
    for number in range(1, draw(st.integers(0, 8)) + 1):
        cluster = draw(st.integers(1, 2))
        free = {}
        for kind, (model, size) in enumerate(((H100, 8), (A100, 4))):
            if draw(st.booleans()):
                first = number * 100 + 50 * kind
                free[model] = list(range(first, first + draw(st.integers(0, size))))
                largest[cluster, model] = size
        nodes.append(NodeView(number, cluster, f"node-{number}", free))
    amounts = st.tuples(st.integers(1, 12), st.integers(0, 12))
    tenants = {number: TenantView(*draw(amounts), active=number != 4) for number in range(1, 5)}
    jobs = [
        WaitingJob(
            job_id=number,
            cluster_id=draw(st.integers(1, 3)),
            tenant_id=draw(st.sampled_from([None, 1, 2, 3, 4])),
            gpu_count=draw(st.integers(1, 12)),
            gpu_type=draw(st.sampled_from(["", "H100", "A100|H100", "H100|A100", "B200"])),
            priority=draw(st.integers(1, 3)),
            submitted_at=NOON + timedelta(seconds=draw(st.integers(0, 3))),
        )
        for number in range(draw(st.integers(0, 25)))
    ]
    held = draw(st.integers(0, 5))
    return Snapshot(jobs, nodes, tenants, largest, frozenset({3}), unassigned_held=held, gpu_total=40)


def after(snapshot: Snapshot, result: Plan) -> Snapshot:
    """The world when the plan has been written down."""
    taken = {gpu for start in result.starts for gpu in start.gpu_ids}
    given: Counter[int | None] = Counter()
    for start in result.starts:
        given[start.job.tenant_id] += start.job.gpu_count
    gone = started(result)
    return replace(
        snapshot,
        jobs=[one for one in snapshot.jobs if one.job_id not in gone],
        nodes=[
            replace(view, free={model: [gpu for gpu in gpus if gpu not in taken] for model, gpus in view.free.items()})
            for view in snapshot.nodes
        ],
        tenants={pk: replace(view, held=view.held + given[pk]) for pk, view in snapshot.tenants.items()},
        unassigned_held=snapshot.unassigned_held + given[None],
    )


def said(result: Plan) -> dict[int, Reason]:
    return {job_id: wait.reason for wait in result.waits for job_id in wait.job_ids}


@given(worlds())
def test_it_says_what_the_naive_planner_says(snapshot: Snapshot) -> None:
    result = plan(snapshot)
    starts, codes = naive_plan(snapshot)
    assert [(start.job.job_id, start.gpu_ids) for start in result.starts] == starts
    assert reasons(result) == codes


@given(worlds())
def test_the_promises_hold_in_any_world(snapshot: Snapshot) -> None:
    """Counted from the plan alone: all GPUs or none, each once, of one model that is wanted, within the quota."""
    result = plan(snapshot)
    model_of = {gpu: model for view in snapshot.nodes for model, gpus in view.free.items() for gpu in gpus}
    cluster_of = {gpu: view.cluster_id for view in snapshot.nodes for gpus in view.free.values() for gpu in gpus}
    decided = [start.job.job_id for start in result.starts] + list(reasons(result))
    assert sorted(decided) == [one.job_id for one in snapshot.jobs]
    given_out = [gpu for start in result.starts for gpu in start.gpu_ids]
    assert len(given_out) == len(set(given_out))
    for start in result.starts:
        assert len(start.gpu_ids) == start.job.gpu_count
        assert {model_of[gpu] for gpu in start.gpu_ids} == {start.model}
        assert takes(start.job.gpu_type, start.model)
        assert {cluster_of[gpu] for gpu in start.gpu_ids} == {start.job.cluster_id}
        if start.job.gpu_count <= snapshot.largest_node[start.job.cluster_id, start.model]:
            assert len(nodes_of(start.gpu_ids)) == 1
    for number, tenant in after(snapshot, result).tenants.items():
        assert tenant.held <= max(tenant.quota, snapshot.tenants[number].held)


@given(worlds())
def test_a_plan_of_what_a_plan_leaves_starts_nothing_and_gives_the_same_reasons(snapshot: Snapshot) -> None:
    """Nobody waits who could start, and a queue in which nothing happens has nothing new to say."""
    result = plan(snapshot)
    again = plan(after(snapshot, result))
    assert again.starts == []
    assert said(again) == said(result)


@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(snapshot: Snapshot, chance: random.Random) -> None:
    shuffled = replace(
        snapshot,
        jobs=chance.sample(list(snapshot.jobs), len(snapshot.jobs)),
        nodes=chance.sample(snapshot.nodes, len(snapshot.nodes)),
    )
    one, other = plan(snapshot), plan(shuffled)
    assert one.starts == other.starts
    assert said(one) == said(other)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=7), st.integers(9, 30))
def test_a_large_job_gets_the_fewest_nodes_that_can_hold_it(sizes: list[int], count: int) -> None:
    result = plan(world(job(1, count), nodes=[node(number, size) for number, size in enumerate(sizes, start=1)]))
    if sum(sizes) < count:
        assert reasons(result) == {1: WaitCode.CAPACITY}
        return
    fullest = sorted(sizes, reverse=True)
    least = next(number for number in range(1, len(sizes) + 1) if sum(fullest[:number]) >= count)
    assert len(nodes_of(started(result)[1])) == least
