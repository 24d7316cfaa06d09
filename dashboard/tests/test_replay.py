"""A small made-up trace through the real services: whoever has no published one passes all the same."""

import json
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from django.core.management import CommandError, call_command

from clusters.tests.factories import make_cluster
from dashboard.replay.trace import Task, read_trace
from jobs.models import Allocation, Job, JobEvent, SchedulerCycle

pytestmark = pytest.mark.django_db

NODES = """sn,cpu_milli,memory_mib,gpu,model
cpu-only,1000,1024,0,
node-1,1000,1024,4,A10
node-2,1000,1024,4,A10
node-3,1000,1024,2,T4
"""
# Class LS takes six A10s for an hour; a whole node is wanted after it, then by somebody who is short and by somebody
# who is not.
PODS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time
cpu,1,1,0,0,,LS,Running,0,9000,0
one,1,1,4,1000,A10,LS,Running,0,3600,0
two,1,1,2,1000,A10,LS,Running,0,3600,0
huge,1,1,16,1000,A10,LS,Pending,5,10,
whole,1,1,4,1000,A10,BE,Succeeded,60,2060,260
short,1,1,1,500,A10|G2,BE,Succeeded,120,720,120.0
long,1,1,2,1000,A10,BE,Pending,180,9999,
other,1,1,1,1000,T4,BE,Succeeded,240,340,240
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The trace's options."""
    (tmp_path / "nodes.csv").write_text(NODES)
    (tmp_path / "pods.csv").write_text(PODS)
    return ["--nodes", str(tmp_path / "nodes.csv"), "--pods", str(tmp_path / "pods.csv")]


def replay(*options: str) -> str:
    """What the command prints."""
    out = StringIO()
    call_command("replay", *options, stdout=out)
    return out.getvalue()


def starts() -> dict[str, float]:
    """When each job started, in seconds from the trace's beginning."""
    jobs = {job.name: job for job in Job.objects.all()}
    begin = jobs["one"].submitted_at
    return {name: (job.started_at - begin).total_seconds() for name, job in jobs.items() if job.started_at}


def test_a_trace_goes_through_the_services(files: list[str]) -> None:
    """``whole`` has a reservation on node-1, from 3600 on. ``short`` passes it on node-2, and so does ``long``, as soon
    as both of the GPUs that nobody keeps there are free: at 720."""
    said = replay(*files)
    assert starts() == {"one": 0, "two": 0, "whole": 3600, "short": 120, "long": 720, "other": 240}
    assert set(Job.objects.values_list("status", flat=True)) == {"completed"}
    assert not Allocation.objects.filter(during__upper_inf=True).exists()
    assert JobEvent.objects.filter(to_status="running").count() == 6
    assert "3 nodes, 10 GPUs; 6 tasks over 0:04:00" in said
    assert "1 of them wanted a share of a GPU and get a whole one" in said
    assert "Left out: 1 that want no GPU, 1 that no model has enough GPUs for." in said
    assert "All 6 tasks ran." in said


def test_the_figures_are_as_reckoned_by_hand(files: list[str]) -> None:
    said = replay(*files)
    figures = json.loads(said.splitlines()[-1])
    lived, pure, fifo = figures.values()
    assert lived == pure
    # Waits: 0, 0, 3540, 0, 540, 0; the last submission is at 240.
    assert (lived["started"], lived["wait_p50_s"], lived["wait_p95_s"], lived["wait_max_s"]) == (6, 0, 3540, 3540)
    assert lived["wait_mean_s"] == 680.0
    # Held until 240: six for 240 s, one for 120 s.
    assert lived["utilization"] == round((6 * 240 + 120) / (10 * 240), 4)
    assert lived["revenue_usd"] == round((6 * 240 + 120) / 3600, 2)
    assert lived["leakage_usd"] == round((4 * 240 - 120) / 3600, 2)
    assert "By the ledger's locked prices: 0.43 USD" in said
    # One of node-2's two idle GPUs for 240 s, the other for 120 s, and the T4s' two are a whole node.
    assert lived["stranded"] == round((240 + 120) / (240 + 120 + 480), 4)
    # First in, first out: all that come after ``whole`` wait for it. ``long`` lasts 9999 - 180 s.
    assert fifo["wait_max_s"] == 3540
    assert fifo["wait_mean_s"] == round((3540 + 3480 + 3420 + 3360) / 6, 1)
    assert (lived["makespan_s"], fifo["makespan_s"]) == (720 + 9819, 3600 + 9819)


def test_the_plot_has_a_line_for_each_policy(files: list[str], tmp_path: Path) -> None:
    replay(*files, "--plot", str(tmp_path / "plot.svg"))
    root = ElementTree.fromstring((tmp_path / "plot.svg").read_text())  # noqa: S314  (our own file)
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 6


def test_speed_limit_and_every(files: list[str]) -> None:
    trace = read_trace(Path(files[1]), Path(files[3]), speed=60, limit=5, every=2)
    assert [(node.hostname, node.gpus) for node in trace.nodes] == [("node-1", 4), ("node-3", 2)]
    assert [(task.name, task.at, task.lasts) for task in trace.tasks] == [
        ("one", 0, 3600),
        ("two", 0, 3600),
        ("whole", 1, 1800),
        ("short", 2, 600),
    ]
    assert trace.tasks[3] == Task("short", 1, "A10|G2", "BE", 2, 600, share=True)


def test_an_estimate_is_to_the_next_minute() -> None:
    assert Task("one", 1, "", "LS", 0, 61, share=False).minutes == 2


@pytest.mark.parametrize("used", ["a cluster", "a scheduler"])
def test_a_database_that_is_somebodys_is_left_alone(files: list[str], used: str) -> None:
    if used == "a cluster":
        make_cluster()
    else:
        SchedulerCycle.objects.create(finished_at="2026-11-23T12:00:00Z", duration_ms=1)
    with pytest.raises(CommandError, match="needs an empty one"):
        replay(*files)
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("nodes.csv", "sn,gpu\nx,1\n", "lacks the columns model"),
        ("nodes.csv", "sn,gpu,model\nx,many,A10\n", "line 2: gpu is 'many'"),
        ("nodes.csv", "sn,gpu,model\nx,0,\n", "has no node with a GPU"),
        ("nodes.csv", "sn,gpu,model\nx,1\n", "line 2: model is missing"),
        ("pods.csv", PODS.replace("3600,0\ntwo", "-5,0\ntwo"), "line 3: deletion_time is '-5'"),
        ("pods.csv", PODS.replace("720,120.0", "720,soon"), "line 7: scheduled_time is 'soon'"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(files: list[str], tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CommandError, match=says):
        replay(*files)
    assert not Job.objects.exists()


@pytest.mark.parametrize("options", [["--speed", "0"], ["--limit", "0"], ["--every", "-1"]])
def test_nonsense_is_refused(files: list[str], options: list[str]) -> None:
    with pytest.raises(CommandError, match="are above 0"):
        replay(*files, *options)


def test_a_file_that_is_not_there_is_named(files: list[str]) -> None:
    with pytest.raises(CommandError, match=r"nowhere\.csv can't be read"):
        replay(*files, "--pods", "nowhere.csv")
