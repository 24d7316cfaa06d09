"""``make up`` as a person runs it: the real supervisor with real children, in a state folder of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpufleet.supervisor import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("up")]

PATIENCE_SECONDS = 120


class Up:
    """One ``python -m gpufleet.up`` at a time on one state folder and one port."""

    def __init__(self, state: Path) -> None:
        self.state = state
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None
        self.said = ""

    def environment(self, **changes: str) -> dict[str, str]:
        dropped = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "STATICFILES_STORAGE")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        return {**kept, "GPUFLEET_STATE": str(self.state), "PORT": str(self.port), "DEMO": "0", **changes}

    def command(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [sys.executable, "-m", "gpufleet.up", *arguments],
            cwd=ROOT,
            env=self.environment(**changes),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def start(self, **changes: str) -> None:
        """Start it and wait until it says that it is up."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpufleet.up"],
            cwd=ROOT,
            env=self.environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if "Ctrl-C stops everything" in line:
                return
        pytest.fail(f"it did not come up:\n{self.said}")

    def end(self, number: int) -> int:
        """Signal it, wait for its end, and give its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        self.said, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode

    def credentials(self) -> dict[str, str]:
        kept: dict[str, str] = json.loads((self.state / "credentials.json").read_text())
        return kept

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.credentials()['api_key']}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def processes(self) -> list[str]:
        """Command lines of all processes that speak of the state folder or the port."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.state) in line or f"--port {self.port}" in line:
                found.append(line)
        return found


@pytest.fixture
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    # Short, for the sockets, and open to the servers' own account when the tests run as root.
    state = Path(f"/tmp/gpufleet-up-{os.getpid()}")
    system = Up(state)
    yield system
    if system.process is not None and system.process.poll() is None:
        system.end(signal.SIGTERM)
    system.command("reset")


def test_it_starts_runs_a_job_stops_and_remembers_also_after_a_kill(up: Up) -> None:
    up.start()
    first = up.credentials()
    assert first["api_key"] in up.said
    assert first["password"] in up.said
    assert (up.state / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert up.call("/healthz") == {"status": "ok"}
    assert up.call("/readyz")["status"] == "ok"
    run_a_job(up)

    second = up.command()
    assert second.returncode == 1
    assert f"runs already on {up.state}: http://127.0.0.1:{up.port}" in second.stderr
    assert up.command("reset").returncode == 1

    assert up.end(signal.SIGTERM) == 0
    assert [line.split()[-2] for line in up.said.splitlines() if line.endswith(" stopped")] == [
        "beat",
        "worker",
        "web",
        "valkey",
        "postgres",
    ]
    assert up.processes() == []

    up.start()
    assert up.credentials() == first
    assert [job["status"] for job in up.call("/api/jobs")] == ["running"]
    up.end(signal.SIGKILL)
    up.start()
    assert [job["name"] for job in up.call("/api/jobs")] == ["hello"]
    assert up.end(signal.SIGINT) == 0
    assert up.processes() == []
    assert up.command("reset").returncode == 0
    assert not up.state.exists()


def run_a_job(up: Up) -> None:
    """From nothing to a running job, with the printed key; the scheduler needs less than three seconds."""
    cluster = up.call("/api/clusters", {"name": "lab"})
    node = up.call("/api/clusters/nodes", {"cluster_id": cluster["id"], "hostname": "n1", "total_gpus": 1})
    up.call("/api/clusters/gpus", {"node_id": node["id"], "gpus": [{"model": "H100"}]})
    job = up.call("/api/jobs", {"cluster_id": cluster["id"], "name": "hello"})
    deadline = time.monotonic() + 3
    while up.call(f"/api/jobs/{job['id']}")["status"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_child_that_dies_stops_the_rest_with_its_last_words(up: Up) -> None:
    up.start(HOST="127.0.0.2")  # It is up when it answers there, so this also tells that another address works.
    assert f"http://127.0.0.2:{up.port}/admin/" in up.said
    worker = next(line for line in Path("/proc").glob("[0-9]*/cmdline") if is_worker(up, line))
    os.kill(int(worker.parent.name), signal.SIGKILL)
    assert up.process is not None
    output, _ = up.process.communicate(timeout=PATIENCE_SECONDS)
    assert up.process.returncode == 1
    assert "worker stopped with code -9; the end of" in output
    assert up.processes() == []


def is_worker(up: Up, cmdline: Path) -> bool:
    """Whether the process is the worker of this system: it has our state folder in its environment."""
    try:
        environment = (cmdline.parent / "environ").read_bytes()
        return b"\0worker\0" in cmdline.read_bytes() and f"GPUFLEET_STATE={up.state}\0".encode() in environment
    except OSError:
        return False


def test_a_taken_port_and_a_dead_database_are_said_at_once(up: Up) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", up.port))
        squatter.listen()
        taken = up.command()
    assert taken.returncode == 1
    assert f"Port {up.port} on 127.0.0.1 is taken" in taken.stderr
    assert f"PORT={up.port + 1}" in taken.stderr
    began = time.monotonic()
    dead = up.command(DATABASE_URL="postgres://nobody@127.0.0.1:9/none")
    assert dead.returncode == 1
    assert "The database of DATABASE_URL does not answer" in dead.stderr
    assert time.monotonic() - began < 10
    assert up.command(PORT="http").stderr == "error: PORT=http is not a port.\n"


def test_a_state_folder_too_long_for_a_socket_is_refused(up: Up) -> None:
    long = up.command(GPUFLEET_STATE=f"/tmp/{'x' * 120}")
    assert long.returncode == 1
    assert not Path(f"/tmp/{'x' * 120}").exists()
    assert "too long a path for a Unix socket" in long.stderr
