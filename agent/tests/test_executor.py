"""Real commands through agent, scheduler and ledger, on GPUs that are not there."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters.models import Node, NodeIntent
from clusters.services import update_node
from django.test import Client as Browser
from django.utils import timezone
from jobs.models import Allocation, JobStatus, Run
from jobs.scheduler import run_cycle
from jobs.services import change_status

from gpufleet_agent import runs, shim
from gpufleet_agent.executor import Executor
from gpufleet_agent.transport import Refused
from tests.fleet import Fleet, make_fleet
from tests.hosts import QUICK_S, Host, run_of, status, submit


@pytest.fixture
def host(fleet: Fleet, tmp_path: Path) -> Iterator[Host]:
    fleet.cluster.execution_enabled = True
    fleet.cluster.save()
    host = Host(fleet, tmp_path)
    yield host
    host.end()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_runs_to_its_end_and_the_console_shows_what_it_said_last(host: Host, admin_client: Browser) -> None:
    code = "import os; print('GPUs', os.environ['CUDA_VISIBLE_DEVICES']); print('steps', os.environ['STEPS'])"
    job = submit(host.fleet, *python(code), gpu_count=2, env={"STEPS": "12 $(id)", "CUDA_VISIBLE_DEVICES": "7"})
    host.until(lambda: status(job) == JobStatus.COMPLETED)
    run = run_of(job)
    assert run.log_tail == "GPUs node-1-0,node-1-1\nsteps 12 $(id)"
    assert (run.exit_code, run.state) == (0, "exited")
    assert Allocation.objects.filter(job=job, during__upper_inf=False).count() == 2
    page = admin_client.get(f"/admin/jobs/job/{job.pk}/change/").content.decode()
    assert "steps 12 $(id)" in page
    host.until(lambda: not list((host.folder / "runs").iterdir()))


def test_a_command_is_a_list_of_arguments_and_never_a_shells(host: Host) -> None:
    job = submit(host.fleet, "echo", "a; touch /tmp/x && $(false)", "*")
    host.until(lambda: status(job) == JobStatus.COMPLETED)
    assert run_of(job).log_tail == "a; touch /tmp/x && $(false) *"


def test_the_agents_own_environment_is_none_of_the_jobs(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SECRET", "x")
    job = submit(host.fleet, "env")
    host.until(lambda: status(job) == JobStatus.COMPLETED)
    assert "AGENT_SECRET" not in run_of(job).log_tail
    assert "GPUFLEET_JOB_ID" in run_of(job).log_tail


@pytest.mark.parametrize(
    ("command", "code"), [(["false"], 1), (["no-such-program"], 127), (python("import os; os.abort()"), -6)]
)
def test_a_command_that_ends_badly_fails_its_job(host: Host, command: list[str], code: int) -> None:
    job = submit(host.fleet, *command)
    host.until(lambda: status(job) == JobStatus.FAILED)
    assert run_of(job).exit_code == code


def test_a_cancelled_job_is_told_and_then_killed_with_all_that_it_started(host: Host, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = (
        "import signal, subprocess, time\n"
        f"signal.signal(15, lambda *_: open({str(told)!r}, 'w').close())\n"
        "child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True)\n"
        "while True: time.sleep(1)"
    )
    job = submit(host.fleet, *python(code))
    host.until(lambda: any(run.tail() for run in host.executor._runs().values()))
    (run,) = host.executor._runs().values()
    child = int(run.tail())
    change_status(job_id=job.pk, status="cancelled", actor="key:1", now=timezone.now())
    host.until(lambda: Run.objects.filter(job=job, state="exited").exists())
    assert told.exists()
    assert run_of(job).exit_code == -9
    assert status(job) == JobStatus.CANCELLED
    host.until(lambda: not is_running(child))


def test_what_a_command_leaves_behind_ends_with_it(host: Host) -> None:
    job = submit(
        host.fleet, *python("import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=2).pid, flush=True)")
    )
    host.until(lambda: status(job) == JobStatus.COMPLETED)
    assert not is_running(int(run_of(job).log_tail))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_preempted_job_has_until_its_time_is_over_and_waits_anew(host: Host) -> None:
    terms = {"preemption": True, "preemption_grace_s": 3, "preemption_min_run_s": 0}
    type(host.fleet.cluster).objects.update(**terms)
    stubborn = (
        "import signal, time; signal.signal(15, lambda *_: print('saving', flush=True)); print('up', flush=True)\n"
    )
    job = submit(host.fleet, *python(stubborn + "while True: time.sleep(1)"), gpu_count=2)
    host.until(lambda: any(run.tail() for run in host.executor._runs().values()))
    urgent = submit(host.fleet, "true", gpu_count=2, priority=1)
    job.refresh_from_db()
    until = job.preempt_at
    assert until is not None
    host.until(lambda: status(job) == JobStatus.QUEUED)
    run = run_of(job)
    assert (run.exit_code, run.log_tail) == (-9, "up\nsaving")
    assert run.ended_at is not None
    assert run.ended_at > until
    assert "preempted" in job.events.latest("pk").reason
    run_cycle(now=timezone.now())
    host.until(lambda: status(urgent) == JobStatus.COMPLETED)
    assert status(job) == JobStatus.QUEUED


def test_a_gpu_is_not_given_on_before_the_run_before_has_left_it(host: Host) -> None:
    stubborn = "import signal, time; signal.signal(15, lambda *_: None); print('up', flush=True); time.sleep(600)"
    first = submit(host.fleet, *python(stubborn), gpu_count=2)
    host.until(lambda: any(run.tail() for run in host.executor._runs().values()))
    change_status(job_id=first.pk, status="cancelled", actor="key:1", now=timezone.now())
    second = submit(host.fleet, "true", gpu_count=2)
    assert status(second) == JobStatus.RUNNING
    host.turn()
    assert len(host.executor._runs()) == 1
    host.until(lambda: status(second) == JobStatus.COMPLETED)
    ended = {run.job_id: run for run in Run.objects.all()}
    assert ended[second.pk].ended_at > ended[first.pk].ended_at  # type: ignore[operator]  # both have ended


def test_an_agent_that_is_killed_and_comes_back_neither_ends_nor_doubles_its_job(host: Host, tmp_path: Path) -> None:
    marks, go = tmp_path / "marks", tmp_path / "go"
    code = (
        f"import os, time; open({str(marks)!r}, 'a').write('began\\n'); print('going', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.05)\n"
        "print('done')"
    )
    job = submit(host.fleet, *python(code))
    host.turn()  # Ordered and launched; then the agent is gone at once, and again.
    for _ in range(3):
        host.restart()
        host.turn()
    host.until(lambda: Run.objects.filter(job=job, state="started").exists())
    host.restart()
    go.touch()
    host.until(lambda: status(job) == JobStatus.COMPLETED)
    assert marks.read_text() == "began\n"
    assert run_of(job).log_tail == "going\ndone"


def test_two_shims_of_one_run_start_it_once(host: Host, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    job = submit(host.fleet, *python(f"open({str(marks)!r}, 'a').write('x')"))
    host.turn()
    (run,) = host.executor._runs().values()
    run.launch()
    run.launch()
    host.until(lambda: status(job) == JobStatus.COMPLETED)
    time.sleep(0.5)
    assert marks.read_text() == "x"


def test_a_run_whose_supervisor_was_killed_is_ended_and_fails(host: Host) -> None:
    job = submit(host.fleet, *python("import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(600)"))
    host.until(lambda: any(run.tail() for run in host.executor._runs().values()))
    (run,) = host.executor._runs().values()
    command, supervisor = map(int, run.tail().split())
    os.kill(supervisor, signal.SIGKILL)
    host.until(lambda: status(job) == JobStatus.FAILED)
    assert "lost" in run_of(job).message
    host.until(lambda: not is_running(command))


def test_a_full_disk_stops_no_command_and_its_end_is_told_when_there_is_room(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shim may write files of no size at all, as on a full disk, until a file that it looks for is there."""
    room = host.folder / "room"
    limited = (
        "import pathlib, resource, sys, time; from gpufleet_agent import shim\n"
        "def write(path, value, whole=shim.write_json):\n"
        f"    full = path.name == 'exit.json' and not pathlib.Path({str(room)!r}).exists()\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (0 if full else 10**9, 10**9))\n"
        "    return whole(path, value)\n"
        "shim.write_json = write; shim.LOG_BYTES = 10**9\n"
        "shim.main(pathlib.Path(sys.argv[1]))\n"
    )
    script = host.folder / "shim.py"
    script.write_text(limited)
    monkeypatch.setattr("gpufleet_agent.runs.SHIM", [str(script)])
    job = submit(host.fleet, *python("print('said', flush=True)"))
    host.until(lambda: any(run.tail() for run in host.executor._runs().values()))
    time.sleep(1.5)
    host.turn()
    assert status(job) == JobStatus.RUNNING
    room.touch()
    host.until(lambda: status(job) == JobStatus.COMPLETED)
    assert run_of(job).log_tail == "said"


def test_a_log_that_has_no_room_does_not_stop_its_command(tmp_path: Path) -> None:
    read, write = os.pipe()
    (tmp_path / "log").mkdir()  # Nothing can be written there.
    keeping = threading.Thread(target=shim._keep, args=(os.fdopen(read, "rb"), tmp_path), daemon=True)
    keeping.start()
    for _ in range(100):
        os.write(write, b"x" * 10_000)  # More than a pipe holds.
    (tmp_path / "log").rmdir()
    os.write(write, b"later")
    os.close(write)
    keeping.join(QUICK_S)
    assert (tmp_path / "log").read_bytes().endswith(b"later")


def test_a_full_disk_saves_no_cancelled_job(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = "import signal, time; signal.signal(15, lambda *_: None); print('up', flush=True); time.sleep(600)"
    job = submit(host.fleet, *python(stubborn))
    host.until(lambda: any(run.tail() for run in host.executor._runs().values()))
    change_status(job_id=job.pk, status="cancelled", actor="key:1", now=timezone.now())
    with monkeypatch.context() as full:

        def unwritable(self: runs.Run, **facts: Any) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(runs.Run, "note", unwritable)
        host.until(lambda: not any(run.is_alive() for run in host.executor._runs().values()))
    host.until(lambda: run_of(job).state == "exited")


def test_one_runs_trouble_is_no_others(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ill, well = submit(host.fleet, "true"), submit(host.fleet, "true")
    begin = runs.Run.begin

    def troubled(folder: Path, assignment: Any, workload: Any) -> runs.Run:
        if assignment["job_id"] == ill.pk:
            raise OSError(28, "No space left on device")
        return begin(folder, assignment, workload)

    monkeypatch.setattr(runs.Run, "begin", troubled)
    host.until(lambda: status(well) == JobStatus.COMPLETED)
    assert status(ill) == JobStatus.RUNNING
    monkeypatch.setattr(runs.Run, "begin", begin)
    host.until(lambda: status(ill) == JobStatus.COMPLETED)


def test_while_the_server_is_away_everything_goes_on_and_is_told_later(host: Host) -> None:
    job = submit(host.fleet, *python("import time; time.sleep(1); print('done')"))
    host.until(lambda: Run.objects.filter(job=job).exists())
    away = Executor(host.fleet.client(server="http://127.0.0.1:9"), host.workload, host.folder / "runs", grace_s=0.1)
    away.node_id = host.node.pk
    away.ask()
    (run,) = away._runs().values()
    deadline = time.monotonic() + QUICK_S
    while run.is_alive() and time.monotonic() < deadline:
        away.settle()
        time.sleep(0.05)
    assert status(job) == JobStatus.RUNNING
    host.restart()
    host.until(lambda: status(job) == JobStatus.COMPLETED)


def test_where_the_cluster_does_not_allow_it_nothing_is_started(host: Host) -> None:
    host.fleet.cluster.execution_enabled = False
    host.fleet.cluster.save()
    submit(host.fleet, "true")
    host.turn()
    assert not list((host.folder / "runs").iterdir())
    assert not Run.objects.exists()


def test_a_server_that_lists_a_run_all_the_same_starts_nothing_while_execution_is_off(host: Host) -> None:
    submit(host.fleet, "true")
    host.executor.ask()
    assert host.executor._wanted is not None
    host.executor._wanted["execution_enabled"] = False
    host.executor.settle()
    assert not list((host.folder / "runs").iterdir())
    host.executor._wanted["execution_enabled"] = True
    host.executor.settle()
    assert list((host.folder / "runs").iterdir())


def test_a_drained_node_gives_back_what_it_has_not_begun(host: Host) -> None:
    job = submit(host.fleet, "true")
    update_node(node_id=host.node.pk, intent=NodeIntent.DRAINING, now=timezone.now())
    host.turn()
    assert status(job) == JobStatus.QUEUED
    assert not list((host.folder / "runs").iterdir())


def test_an_image_is_nothing_for_a_node_that_runs_commands(host: Host) -> None:
    job = submit(host.fleet, "true", image="pytorch")
    host.turn()
    assert status(job) == JobStatus.QUEUED
    assert "no images" in run_of(job).message


def test_a_gang_of_two_nodes_knows_who_is_who(host: Host, tmp_path: Path) -> None:
    other = Host(host.fleet, tmp_path / "other", "node-2")
    Node.objects.filter(pk=host.node.pk).update(ip_address="10.0.0.1")
    code = "import os; print(*(os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')))"
    job = submit(host.fleet, *python(code), gpu_count=4)
    other.turn()

    def both() -> bool:
        other.turn()
        return status(job) == JobStatus.COMPLETED

    host.until(both)
    said = dict(Run.objects.filter(job=job).values_list("node__hostname", "log_tail"))
    assert said == {"node-1": "0 2 10.0.0.1 29500", "node-2": "1 2 10.0.0.1 29500"}


def test_what_a_command_says_is_kept_within_bounds(host: Host) -> None:
    job = submit(host.fleet, *python("for number in range(1_500_000): print('line', number)"))
    host.until(lambda: status(job) == JobStatus.COMPLETED)
    tail = run_of(job).log_tail
    assert tail.endswith("line 1499999")
    assert len(tail) < 20_000


@pytest.mark.slow
def test_the_whole_agent_as_a_process_runs_a_job_within_seconds(
    live_server: Any, transactional_db: None, tmp_path: Path
) -> None:
    fleet = make_fleet(live_server.url, execution_enabled=True)
    (tmp_path / "key").write_text(fleet.key + "\n")
    command = [sys.executable, "-m", "gpufleet_agent.main", "run", "--server", fleet.server, "--simulate", "4"]
    places = [
        "--key-file",
        str(tmp_path / "key"),
        "--cluster",
        str(fleet.cluster.pk),
        "--state",
        str(tmp_path / "state"),
    ]
    agent = subprocess.Popen([*command, *places, "--execute", "process"], cwd=Path(__file__).parent.parent)
    try:
        wait_until(lambda: Node.objects.filter(gpus__isnull=False).exists())
        job = submit(fleet, *python("print('hello')"), gpu_count=4)
        wait_until(lambda: status(job) == JobStatus.COMPLETED)
    finally:
        agent.terminate()
        assert agent.wait(30) == 0
    assert run_of(job).log_tail == "hello"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + QUICK_S
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def test_a_report_of_another_clusters_run_is_refused(host: Host, live_server: Any) -> None:
    job = submit(host.fleet, "sleep", "600")
    other = make_fleet(live_server.url, "oslo")
    report = {"job_id": job.pk, "run_id": job.allocations.get().pk, "state": "exited", "exit_code": 0}
    with pytest.raises(Refused, match="404"):
        other.client().report_run(host.node.pk, report)
