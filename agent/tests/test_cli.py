"""The command line against a live server."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from apikeys.services import issue_key
from clusters.models import Cluster, LatestReading
from clusters.tests.factories import make_gpu, make_node
from django.utils import timezone
from jobs.models import Job, JobStatus
from jobs.scheduler import run_cycle
from jobs.services import change_status

from gpufleet_agent.cli import CLEAR, main
from tests.fleet import Fleet

AGENT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def logged_in(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fleet:
    """A key of no tenant, in the environment; and a home of its own."""
    key = issue_key(label="cli", permissions=["admin"], created_by="test", now=timezone.now()).raw
    monkeypatch.setenv("GPUFLEET_SERVER", fleet.server)
    monkeypatch.setenv("GPUFLEET_KEY", key)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    node = make_node(fleet.cluster, "node-1", last_heartbeat_at=timezone.now())
    make_gpu(node)
    return fleet


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def submitted(capsys: pytest.CaptureFixture[str], fleet: Fleet, *more: str) -> Any:
    return json.loads(said(capsys, "jobs", "submit", "--cluster", str(fleet.cluster.pk), "--json", *more))


def test_a_login_is_kept_for_its_owner_alone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import io
    import os

    monkeypatch.setattr("sys.stdin", io.StringIO(os.environ["GPUFLEET_KEY"] + "\n"))
    assert "Logged in" in said(capsys, "login", fleet.server)
    monkeypatch.delenv("GPUFLEET_SERVER")
    monkeypatch.delenv("GPUFLEET_KEY")
    kept = tmp_path / "gpufleet" / "login.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "fra" in said(capsys, "clusters")
    kept.unlink()
    assert "log in first" in said(capsys, "clusters", code=2)


def test_a_wrong_key_is_not_kept(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("gfk_wrong\n"))
    said(capsys, "login", fleet.server, code=1)
    monkeypatch.delenv("GPUFLEET_KEY")
    assert "log in first" in said(capsys, "clusters", code=2)


def test_the_fleet_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert "node-1" in said(capsys, "nodes")
    assert "H100" in said(capsys, "gpus", "top", "--once")
    assert "no invoices" not in said(capsys, "invoices")
    assert json.loads(said(capsys, "clusters", "--json"))[0]["name"] == "fra"


def frames_on_a_terminal(*arguments: str, lines: int, columns: int) -> list[str]:
    """What the command draws in two turns, each from the top."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    command = [sys.executable, "-m", "gpufleet_agent.cli", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}
    with subprocess.Popen(command, cwd=AGENT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen, until = "", time.monotonic() + 30
        with contextlib.suppress(OSError):  # Which says that the command has ended.
            while seen.count(CLEAR) < 3 and time.monotonic() < until:
                if select.select([ours], [], [], 1)[0]:
                    seen += os.read(ours, 65536).decode()
        process.kill()
    os.close(ours)
    assert seen.count(CLEAR) >= 3, seen
    return seen.split(CLEAR)[1:3]


def test_top_keeps_to_the_terminals_lines_with_the_busiest_in_sight(fleet: Fleet) -> None:
    node = make_node(fleet.cluster, "node-2", last_heartbeat_at=timezone.now())
    gpus = [make_gpu(node) for _ in range(30)]
    nothing = dict.fromkeys(("memory_used_mb", "memory_total_mb", "temperature_c", "power_draw_w"), 0)
    for place, gpu in enumerate(gpus):
        LatestReading.objects.create(gpu=gpu, recorded_at=timezone.now(), utilization_pct=place, **nothing)
    frame = frames_on_a_terminal("gpus", "top", "--every", "0.1", lines=10, columns=60)[1].splitlines()
    assert len(frame) == 9
    assert max(map(len, frame)) <= 60
    assert frame[1].split()[0] == str(gpus[-1].pk)
    assert frame[-1] == "… and 24 GPUs that do less"


def test_who_waits_for_what_nobody_runs_is_told(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit = ("jobs", "submit", "--cluster", str(fleet.cluster.pk), "--wait")
    monkeypatch.setattr("gpufleet_agent.cli._follow", lambda *_: 0)
    Cluster.objects.update(execution_enabled=False)
    assert "runs no commands" in said(capsys, *submit, "--", "true")
    Cluster.objects.update(execution_enabled=True)
    assert said(capsys, *submit, "--", "true") == ""
    assert "has no command" in said(capsys, *submit)


def run_cli(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpufleet_agent.cli", *arguments]
    return subprocess.run(command, cwd=AGENT, text=True, check=False, **{"stderr": subprocess.PIPE, **options})


def test_a_terminal_without_the_signs_and_a_full_disk_get_no_traceback() -> None:
    poor = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = run_cli("gpus", "top", "--once", env=poor, stdout=subprocess.PIPE)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "H100" in shown.stdout
    with Path("/dev/full").open("w") as full:
        unwritten = run_cli("clusters", stdout=full)
    assert (unwritten.returncode, unwritten.stderr) == (1, "gpufleet: [Errno 28] No space left on device\n")


def test_a_reader_that_leaves_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        ended = run_cli("clusters", "--json", stdout=pipe)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_who_stops_waiting_is_told_that_the_job_goes_on(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    job_id = submitted(capsys, fleet, "--", "true")["id"]
    command = [sys.executable, "-m", "gpufleet_agent.cli", "jobs", "watch", str(job_id)]
    # A shell's background jobs ignore the signal, and so would this child of such a job.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=AGENT, preexec_fn=heeds, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (
        130,
        f"gpufleet: job {job_id} goes on; gpufleet jobs cancel {job_id} would end it\n",
    )


def test_a_job_is_submitted_as_it_was_said(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--env", "A=b=c", "--minutes", "5", "--", "python", "-c", "print(1)", "--json"]
    job = Job.objects.get(pk=submitted(capsys, fleet, *more)["id"])
    assert (job.command, job.env, job.name) == (["python", "-c", "print(1)", "--json"], {"A": "b=c"}, "python")
    assert (job.gpu_count, job.priority, job.estimated_duration_min) == (1, 5, 5)
    assert "queued" in said(capsys, "jobs", "list", "--limit", "1")
    assert f"Job {job.pk} is queued" in said(capsys, "jobs", "explain", str(job.pk))
    assert "cancelled" in said(capsys, "jobs", "cancel", str(job.pk))


@pytest.mark.parametrize(("ending", "code"), [(JobStatus.COMPLETED, 0), (JobStatus.FAILED, 1)])
def test_who_waits_for_a_job_knows_by_the_exit_code(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], ending: str, code: int
) -> None:
    job_id = submitted(capsys, fleet, "--", "true")["id"]
    run_cycle(now=timezone.now())
    codes: list[int] = []
    waiting = threading.Thread(target=lambda: codes.append(main(["jobs", "watch", str(job_id)])))
    waiting.start()
    time.sleep(0.5)
    change_status(job_id=job_id, status=ending, actor="key:1", now=timezone.now())
    waiting.join(20)
    assert codes == [code]
    assert ending in capsys.readouterr().out


def test_a_refusal_is_told_with_its_places(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    words = said(capsys, "jobs", "submit", "--cluster", str(fleet.cluster.pk), "--priority", "11", "--", "true", code=1)
    assert "#/priority" in words
    assert "at most 1" in said(capsys, "jobs", "submit", "--cluster", str(fleet.cluster.pk), "--gpus", "9", code=1)


def test_a_tenant_must_be_named_where_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    from tenants.tests.factories import make_tenant

    acme = make_tenant("acme")
    assert "0.00 GPU-hours" in said(capsys, "usage", "--days", "3")
    make_tenant("bluefin")
    assert "acme" in said(capsys, "usage", code=2)
    assert "0.00 GPU-hours" in said(capsys, "usage", "--tenant", str(acme.pk))


def test_a_server_that_is_away_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPUFLEET_SERVER", "http://127.0.0.1:9")
    assert "does not answer" in said(capsys, "clusters", code=1)
