"""The pure planner, on plain objects: each rule by an example, and the promises on random worlds."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.placement import NodeView, Plan, Snapshot, TenantView, WaitCode, WaitingJob, matches, plan, sentence, takes

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
H100, A100, A10 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA A10"


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


def nodes_of(gpu_ids: tuple[int, ...]) -> list[int]:
    return sorted({gpu_id // 100 for gpu_id in gpu_ids})


def test_the_highest_priority_goes_first_and_then_the_oldest() -> None:
    result = plan(world(job(1), job(2, priority=1), job(3), nodes=[node(1, 2)]))
    assert list(started(result)) == [2, 1]
    assert [(wait.job_id, wait.code) for wait in result.waits] == [(3, WaitCode.CAPACITY)]


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
    assert [(wait.code, dict(wait.figures)) for wait in result.waits] == [
        (WaitCode.FRAGMENTED, {"needs": 4, "wants": "one model", "free": 6, "best": 3})
    ]


def test_a_job_larger_than_a_node_gets_the_fewest_nodes_and_the_rest_where_it_fits_tightest() -> None:
    result = plan(world(job(1, 11), nodes=[node(1, 5), node(2, 8), node(3, 3), node(4, 8)], size=8))
    assert nodes_of(started(result)[1]) == [2, 3]


def test_a_job_never_mixes_models() -> None:
    result = plan(world(job(1, 10), nodes=[node(1, 8), node(2, 8, A100)]))
    assert [wait.code for wait in result.waits] == [WaitCode.CAPACITY]


def test_preferences_are_tried_in_order_and_any_means_the_most_plentiful() -> None:
    nodes = [node(1, 2, H100), node(2, 8, A100), node(3, 1, A10)]
    result = plan(world(job(1, kind="H100|A100"), job(2, 4, kind="H100|A100"), job(3), nodes=nodes))
    assert {number: nodes_of(gpus) for number, gpus in started(result).items()} == {1: [1], 2: [2], 3: [2]}


def test_what_stands_behind_a_job_that_waits_may_start() -> None:
    result = plan(world(job(1, 8, priority=1), job(2, 1), nodes=[node(1, 4)]))
    assert list(started(result)) == [2]


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
    assert [wait.code for wait in result.waits] == [code]


def test_a_quota_counts_what_the_plan_has_given() -> None:
    result = plan(
        world(*[job(n, 2, tenant=7) for n in range(1, 6)], nodes=[node(1, 8)], tenants={7: TenantView(5, held=1)})
    )
    assert list(started(result)) == [1, 2]
    assert {dict(wait.figures)["held"] for wait in result.waits} == {5}


def test_a_cluster_in_maintenance_takes_nothing_and_another_cluster_is_not_used() -> None:
    closed = plan(world(job(1), nodes=[node(1, 8)], closed_clusters=frozenset({1})))
    assert [wait.code for wait in closed.waits] == [WaitCode.CLUSTER_MAINTENANCE]
    elsewhere = plan(world(job(1), nodes=[node(1, 8, cluster=2)]))
    assert [wait.code for wait in elsewhere.waits] == [WaitCode.CAPACITY]


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


jobs_strategy = st.lists(
    st.tuples(
        st.integers(1, 2),
        st.sampled_from([None, 1, 2, 3]),
        st.integers(1, 12),
        st.sampled_from(["", "H100", "A100|H100", "B200"]),
        st.integers(1, 3),
    ),
    max_size=30,
)
nodes_strategy = st.lists(st.tuples(st.integers(1, 2), st.sampled_from([H100, A100]), st.integers(0, 8)), max_size=10)


@given(
    jobs_strategy, nodes_strategy, st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=3, max_size=3)
)
def test_the_promises_hold_in_any_world(
    jobs: list[tuple[int, int | None, int, str, int]],
    nodes: list[tuple[int, str, int]],
    quotas: list[tuple[int, int]],
) -> None:
    waiting = [
        WaitingJob(number, cluster, tenant, gpus, kind, priority, NOON + number * timedelta(seconds=1))
        for number, (cluster, tenant, gpus, kind, priority) in enumerate(jobs)
    ]
    views = [node(number, free, model, cluster=cluster) for number, (cluster, model, free) in enumerate(nodes, start=1)]
    tenants = {number: TenantView(*quota) for number, quota in enumerate(quotas, start=1)}
    model_of = {gpu: model for view in views for model, gpus in view.free.items() for gpu in gpus}
    cluster_of = {gpu: view.cluster_id for view in views for gpus in view.free.values() for gpu in gpus}
    result = plan(world(*waiting, nodes=views, tenants=tenants))

    assert sorted([s.job.job_id for s in result.starts] + [w.job_id for w in result.waits]) == list(range(len(jobs)))
    given_out = [gpu for start in result.starts for gpu in start.gpu_ids]
    assert len(given_out) == len(set(given_out))
    held: Counter[int] = Counter()
    for start in result.starts:
        assert len(start.gpu_ids) == start.job.gpu_count
        assert {model_of[gpu] for gpu in start.gpu_ids} == {start.model}
        assert takes(start.job.gpu_type, start.model)
        assert {cluster_of[gpu] for gpu in start.gpu_ids} == {start.job.cluster_id}
        if start.job.gpu_count <= 8:
            assert len(nodes_of(start.gpu_ids)) == 1
        if start.job.tenant_id is not None:
            held[start.job.tenant_id] += start.job.gpu_count
    for number, total in held.items():
        assert tenants[number].held + total <= tenants[number].quota

    # Whoever waits could indeed not start beside the rest of the plan: counted anew, without the planner's memory.
    left = Counter((cluster_of[gpu], model_of[gpu], gpu // 100) for gpu in set(model_of) - set(given_out))
    for wait in result.waits:
        waiter = waiting[wait.job_id]
        if waiter.tenant_id is not None:
            tenant = tenants[waiter.tenant_id]
            over = tenant.held + held[waiter.tenant_id] + waiter.gpu_count > tenant.quota
            assert over or wait.code is not WaitCode.QUOTA
            if over:
                continue
        for model in (H100, A100):
            if takes(waiter.gpu_type, model):
                per_node = [n for (cluster, m, _), n in left.items() if (cluster, m) == (waiter.cluster_id, model)]
                fits = max(per_node, default=0) if waiter.gpu_count <= 8 else sum(per_node)
                assert fits < waiter.gpu_count
