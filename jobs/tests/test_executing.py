"""What agents are given to run, and what becomes of jobs by what they report."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient

from clusters.models import Cluster, Node, NodeIntent
from clusters.services import update_node
from clusters.tests.factories import make_cluster_and_key, make_gpu, make_node
from gpufleet.common.errors import NotFound
from jobs import assignment_views
from jobs.assignments import current_run_id, get_assignments
from jobs.models import Job, JobStatus, Run
from jobs.scheduler import run_cycle
from jobs.services import RunIsOver, change_status, report_run
from jobs.tests.factories import NOW, make_job

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(minutes=5)


@pytest.fixture
def cluster() -> Cluster:
    return make_cluster_and_key(execution_enabled=True)[0]


@pytest.fixture
def nodes(cluster: Cluster) -> list[Node]:
    """Two nodes of two GPUs."""
    nodes = [make_node(cluster, ip_address=f"10.0.0.{number}") for number in (1, 2)]
    for node in nodes:
        make_gpu(node, uuid=f"GPU-{node.pk}-0"), make_gpu(node, uuid=f"GPU-{node.pk}-1")
    return nodes


def start(cluster: Cluster, **fields: Any) -> tuple[Job, int]:
    """A job that the scheduler has started, and its run."""
    job = make_job(cluster=cluster, **{"command": ["true"], **fields})
    run_cycle(now=NOW + timedelta(seconds=1))
    job.refresh_from_db()
    run_id = current_run_id(job.pk)
    assert job.status == JobStatus.RUNNING
    assert run_id is not None
    return job, run_id


def tell(node: Node, job: Job, run_id: int, state: str = "exited", **fields: Any) -> Run:
    return report_run(node_id=node.pk, job_id=job.pk, run_id=run_id, state=state, actor="key:1", now=LATER, **fields)


def status_of(job: Job) -> str:
    job.refresh_from_db()
    return job.status


def given(node: Node) -> Any:
    return get_assignments(node.pk, cluster_key_id=None)


def test_a_gang_knows_its_ranks_and_where_the_first_one_is(cluster: Cluster, nodes: list[Node]) -> None:
    job, run_id = start(cluster, gpu_count=4, env={"EPOCHS": "3"}, command=["python", "train.py"])
    first, second = given(nodes[0]).runs[0], given(nodes[1]).runs[0]
    assert (first.run_id, first.rank, second.run_id, second.rank) == (run_id, 0, run_id, 1)
    assert {first.world_size, second.world_size} == {2}
    assert first.master_addr == second.master_addr == "10.0.0.1"
    assert [gpu.uuid for gpu in second.gpus] == [f"GPU-{nodes[1].pk}-0", f"GPU-{nodes[1].pk}-1"]
    assert (first.command, first.env, first.job_id) == (["python", "train.py"], {"EPOCHS": "3"}, job.pk)


def test_a_job_without_a_command_is_somebody_elses_to_run(cluster: Cluster, nodes: list[Node]) -> None:
    start(cluster, command=None, gpu_count=4)
    assert given(nodes[0]).runs == []


def test_while_execution_is_off_no_command_leaves_the_server(cluster: Cluster, nodes: list[Node]) -> None:
    job, run_id = start(cluster, gpu_count=4)
    tell(nodes[0], job, run_id, "started")
    Cluster.objects.update(execution_enabled=False)
    assert [run.run_id for run in given(nodes[0]).runs] == [run_id]  # To be looked after to its end.
    assert given(nodes[1]).runs == []
    assert not given(nodes[1]).execution_enabled


def test_it_is_off_unless_somebody_turns_it_on() -> None:
    assert not make_cluster_and_key()[0].execution_enabled


def test_a_gang_completes_when_its_last_node_has(cluster: Cluster, nodes: list[Node]) -> None:
    job, run_id = start(cluster, gpu_count=4)
    tell(nodes[0], job, run_id, exit_code=0)
    assert status_of(job) == JobStatus.RUNNING
    tell(nodes[1], job, run_id, exit_code=0, log_tail="done")
    assert status_of(job) == JobStatus.COMPLETED
    assert not job.allocations.filter(during__upper_inf=True).exists()
    assert list(job.runs.order_by("rank").values_list("log_tail", flat=True)) == ["", "done"]


@pytest.mark.parametrize(("code", "words"), [(3, "exit code 3"), (-9, "ended by signal 9"), (None, "ended unseen")])
def test_one_bad_end_fails_the_gang_and_says_where(
    cluster: Cluster, nodes: list[Node], code: int | None, words: str
) -> None:
    job, run_id = start(cluster, gpu_count=4)
    tell(nodes[1], job, run_id, exit_code=code)
    assert status_of(job) == JobStatus.FAILED
    assert job.events.first().reason == f"{words} on {nodes[1].hostname}"  # type: ignore[union-attr]  # it has one
    assert given(nodes[0]).runs == []  # Its agent ends it there.


def test_a_node_that_refuses_gives_the_job_back_and_its_next_run_is_another(
    cluster: Cluster, nodes: list[Node]
) -> None:
    job, run_id = start(cluster, gpu_count=4)
    tell(nodes[0], job, run_id, "refused", message="no docker here")
    assert status_of(job) == JobStatus.QUEUED
    run_cycle(now=LATER + timedelta(seconds=1))
    again = current_run_id(job.pk)
    assert again != run_id
    tell(nodes[1], job, run_id, exit_code=1)  # Late news of the first run.
    assert status_of(job) == JobStatus.RUNNING


def test_the_same_report_again_changes_nothing(cluster: Cluster, nodes: list[Node]) -> None:
    job, run_id = start(cluster, gpu_count=4)
    first = tell(nodes[0], job, run_id, exit_code=7, log_tail="bang")
    again = tell(nodes[0], job, run_id, exit_code=0, log_tail="fine")
    assert (first.pk, again.exit_code, again.log_tail) == (again.pk, 7, "bang")
    assert job.events.filter(to_status="failed").count() == 1
    with pytest.raises(RunIsOver):
        tell(nodes[0], job, run_id, "started")


def test_what_a_cancelled_job_said_last_is_kept_and_moves_nothing(cluster: Cluster, nodes: list[Node]) -> None:
    job, run_id = start(cluster, gpu_count=4)
    change_status(job_id=job.pk, status="cancelled", actor="key:1", now=LATER)
    tell(nodes[0], job, run_id, exit_code=-15, log_tail="terminated")
    assert status_of(job) == JobStatus.CANCELLED
    assert job.runs.get().log_tail == "terminated"


def test_a_run_that_the_node_was_never_given_is_not_there(cluster: Cluster, nodes: list[Node]) -> None:
    job, run_id = start(cluster, gpu_count=2)
    ours = job.allocations.first().gpu.node_id  # type: ignore[union-attr]  # it runs
    other = next(node for node in nodes if node.pk != ours)
    for node, run in ((other, run_id), (nodes[0], run_id + 10_000), (make_node(), run_id)):
        with pytest.raises(NotFound):
            tell(node, job, run, exit_code=0)
    assert status_of(job) == JobStatus.RUNNING


def test_a_drained_node_takes_nothing_new(cluster: Cluster, nodes: list[Node]) -> None:
    before = given(nodes[0])
    update_node(node_id=nodes[0].pk, intent=NodeIntent.DRAINING, now=NOW)
    after = given(nodes[0])
    assert (before.accepts_new, after.accepts_new) == (True, False)
    assert before.version != after.version


def test_a_large_cluster_asks_less_often(cluster: Cluster, nodes: list[Node]) -> None:
    assert given(nodes[0]).poll_after_s == 1
    for _ in range(98):
        make_node(cluster)
    assert given(nodes[0]).poll_after_s == 2


# Over HTTP.


def agent_of(**fields: Any) -> tuple[APIClient, Node]:
    cluster, raw = make_cluster_and_key(execution_enabled=True, **fields)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    node = make_node(cluster)
    make_gpu(node)
    return client, node


def path(node: Node, what: str) -> str:
    return f"/api/clusters/nodes/{node.pk}/{what}"


def test_a_job_goes_from_the_list_to_its_end() -> None:
    client, node = agent_of()
    job, run_id = start(node.cluster)
    answer = client.get(path(node, "assignments")).json()
    assert answer["runs"][0]["run_id"] == run_id
    body = {"job_id": job.pk, "run_id": run_id, "state": "exited", "exit_code": 0, "log_tail": "bye\n"}
    assert client.post(path(node, "reports"), body, format="json").json()["log_tail"] == "bye\n"
    assert status_of(job) == JobStatus.COMPLETED


@pytest.mark.parametrize(
    "body", [{"state": "paused"}, {"state": "exited", "exit_code": 2**40}, {"state": "exited", "code": 0}, {}]
)
def test_a_bad_report_is_a_400_and_changes_nothing(body: dict[str, Any]) -> None:
    client, node = agent_of()
    job, run_id = start(node.cluster)
    answer = client.post(path(node, "reports"), {"job_id": job.pk, "run_id": run_id, **body}, format="json")
    assert answer.status_code == 400
    assert not Run.objects.exists()


@pytest.mark.parametrize("query", ["wait=21", "wait=-1", "wait=x", "waits=1"])
def test_a_bad_question_is_a_400(query: str) -> None:
    client, node = agent_of()
    assert client.get(path(node, f"assignments?{query}")).status_code == 400


def test_who_comes_when_all_places_are_taken_is_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client, node = agent_of()
    version = client.get(path(node, "assignments")).json()["version"]
    naps: list[float] = []
    monkeypatch.setattr("jobs.assignment_views.time.sleep", naps.append)
    with every_place_taken():
        client.get(path(node, f"assignments?wait=1&version={version}"))
    assert naps == []
    client.get(path(node, f"assignments?wait=1&version={version}"))
    assert naps


def test_every_place_is_free_again_after_its_question() -> None:
    client, node = agent_of()
    for _ in range(5):
        client.get(path(node, "assignments?wait=1"))
        client.get("/api/clusters/nodes/404404/assignments?wait=1")
    with every_place_taken() as places:
        assert places == 2


@contextmanager
def every_place_taken() -> Iterator[int]:
    places: threading.BoundedSemaphore = assignment_views.PLACES
    taken = 0
    while places.acquire(blocking=False):
        taken += 1
    try:
        yield taken
    finally:
        for _ in range(taken):
            places.release()
