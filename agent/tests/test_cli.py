"""The command line against a live server."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from apikeys.services import issue_key
from clusters.tests.factories import make_gpu, make_node
from django.utils import timezone
from jobs.models import Job, JobStatus
from jobs.scheduler import run_cycle
from jobs.services import change_status

from gpufleet_agent.cli import main
from tests.fleet import Fleet


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
