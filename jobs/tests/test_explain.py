"""Explanations of jobs on real rows, and the score of the estimates they give."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apikeys.tests.factories import client_with, make_key
from clusters.models import Node
from clusters.tests.factories import make_gpu, make_node
from jobs import queries, scheduler, services
from jobs.models import Job, StartEstimate
from jobs.tests.factories import NOW, allocate, make_job
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def run(node: Node, slots: slice, minutes: int | None, **fields: Any) -> Job:
    """A job that has held these GPUs of the node since noon."""
    gpus = list(node.gpus.order_by("gpu_index")[slots])
    job = make_job(
        cluster=node.cluster, gpu_count=len(gpus), status="running", estimated_duration_min=minutes, **fields
    )
    allocate(job, gpus)
    return job


def explain(job: Job, **fields: Any) -> scheduler.Explanation:
    return scheduler.explain_job(job_id=job.pk, **{"of_tenant": None, "now": NOW, **fields})


def test_it_names_the_freest_node_and_what_ends_when_it_would_fit(node: Node) -> None:
    run(node, slice(0, 2), 30)
    run(node, slice(2, 3), 60)
    job = make_job(cluster=node.cluster, gpu_count=4)
    said = explain(job)
    assert said.summary == (
        f"Needs 4 GPUs of H100 on one node; 1 are free, and the freest node ({node.hostname}) has 1. "
        "2 jobs end by 2026-11-23 13:00 UTC and would free them."
    )
    assert (said.prospect.place, said.prospect.queued) == (1, 1)
    assert said.prospect.earliest == said.prospect.estimated == NOW + HOUR
    (remedy,) = said.prospect.remedies
    assert (remedy.name, remedy.value, remedy.text) == ("gpu_count", 1, "1 GPU instead of 4.")


def test_all_blockers_are_given_and_each_remedy_is_tried(node: Node) -> None:
    """Neither a larger quota nor another model alone would do: they are not offered."""
    for _ in range(2):
        make_gpu(make_node(node.cluster), model="A100")
    acme = alice(gpu_quota=4)
    run(node, slice(0, 3), 60, tenant=acme)
    job = make_job(cluster=node.cluster, tenant=acme, gpu_count=2, gpu_type="H100")
    said = explain(job).prospect
    assert [blocker.code for blocker in said.blockers] == ["quota", "capacity"]
    assert said.blockers[0].figures == {"needs": 2, "held": 3, "quota": 4, "short_by": 1}
    assert [(remedy.name, remedy.value) for remedy in said.remedies] == [("gpu_count", 1)]


def test_a_quota_and_another_model_that_would_help_are_offered(node: Node) -> None:
    acme = alice(gpu_quota=2)
    run(node, slice(0, 1), 60, tenant=acme)
    by_quota = make_job(cluster=node.cluster, tenant=acme, gpu_count=2)
    assert [(one.name, one.value) for one in explain(by_quota).prospect.remedies] == [
        ("gpu_quota", 3),
        ("gpu_count", 1),
    ]
    by_model = make_job(cluster=node.cluster, gpu_count=1, gpu_type="B200")
    said = explain(by_model)
    assert said.summary == "The cluster has no GPU of B200."
    assert [(one.name, one.value) for one in said.prospect.remedies] == [("gpu_type", "")]


def test_it_says_who_is_ahead_and_starts_after_them(node: Node) -> None:
    run(node, slice(0, 4), 60)
    first = make_job(cluster=node.cluster, gpu_count=4, priority=1, estimated_duration_min=30)
    second = make_job(cluster=node.cluster, gpu_count=4)
    said = explain(second).prospect
    assert (said.place, said.earliest, said.estimated) == (2, NOW + HOUR, NOW + 1.5 * HOUR)
    assert explain(first).prospect.place == 1


def test_where_nobody_says_how_long_it_runs_nobody_knows(node: Node) -> None:
    run(node, slice(0, 4), None)
    said = explain(make_job(cluster=node.cluster, gpu_count=4))
    assert (said.prospect.earliest, said.prospect.estimated, said.prospect.without_estimate) == (None, None, 1)
    assert said.summary.endswith("Too few of the jobs that run say when they end.")
    assert not StartEstimate.objects.exists()


def test_a_held_a_running_and_an_ended_job_say_what_happened(node: Node) -> None:
    held = make_job(cluster=node.cluster, status="blocked", block_reason="On hold: data")
    assert explain(held).summary == "On hold: data"
    job = make_job(cluster=node.cluster, gpu_count=2)
    scheduler.run_cycle(now=NOW + HOUR)
    said = explain(job, now=NOW + 2 * HOUR)
    assert said.summary == "Started on 2 × H100, on one node, the tightest fit: 2 of its GPUs stay free."
    assert said.placed_on == (node.hostname,)
    assert [(one.code, one.seconds) for one in said.waited] == [("scheduler", 3600.0)]
    services.change_status(job_id=job.pk, status="failed", reason="out of memory", actor="key:1", now=NOW + 3 * HOUR)
    assert explain(job).summary.endswith("It is failed: out of memory")


def test_a_tenant_sees_how_much_others_hold_and_not_who(node: Node) -> None:
    acme, bluefin = alice(), bob()
    run(node, slice(0, 2), 60, tenant=acme)
    run(node, slice(2, 4), 60, tenant=bluefin, name="bluefin-secret")
    job = make_job(cluster=node.cluster, tenant=acme, gpu_count=4)
    seen = client_with(make_key(acme)).get(f"/api/jobs/{job.pk}/explain")
    assert seen.status_code == 200
    assert [(one["tenant"], one["gpus"]) for one in seen.json()["holders"]] == [(None, 2), ("acme", 2)]
    assert "bluefin" not in seen.content.decode()
    everything = client_with(make_key()).get(f"/api/jobs/{job.pk}/explain").json()
    assert {one["tenant"] for one in everything["holders"]} == {"acme", "bluefin"}
    assert client_with(make_key(bluefin)).get(f"/api/jobs/{job.pk}/explain").status_code == 404


def test_each_source_keeps_an_estimate_once_and_it_is_scored_against_what_happened(node: Node) -> None:
    running = run(node, slice(0, 4), 60)
    job = make_job(cluster=node.cluster, gpu_count=4)
    scheduler.run_cycle(now=NOW)
    explain(job)
    explain(job)
    kept = StartEstimate.objects.order_by("pk").values_list("source", "starts_at")
    assert list(kept) == [("scheduler", NOW + HOUR), ("explanation", NOW + HOUR)]
    score = queries.score_estimates(start=NOW, end=NOW + HOUR)[None]
    assert score == queries.EstimateScore(0, None, None, 0)
    ended_at = NOW + 1.5 * HOUR
    services.change_status(job_id=running.pk, status="completed", actor="key:1", now=ended_at)
    scheduler.run_cycle(now=ended_at)
    score = queries.score_estimates(start=NOW, end=NOW + HOUR)[None]
    assert score == queries.EstimateScore(scored=2, error_p50_s=1800.0, error_p90_s=1800.0, held=0)
    assert queries.score_estimates(start=NOW + HOUR, end=timezone.now())[None].scored == 0
