"""The embedded servers, really started, killed and started again."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from gpufleet import embedded
from gpufleet.embedded import EmbeddedError, Postgres, Valkey
from gpufleet.supervisor import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("embedded")]

OUTLIVES_ITS_SUPERVISOR = """
import os, sys, time
from pathlib import Path
from gpufleet import embedded
if sys.argv[2] == "orphan":
    embedded.die_with_parent = lambda number=0: None
server = getattr(embedded, sys.argv[1])(Path(sys.argv[3]))
print(server.start().pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def state() -> Iterator[Path]:
    # Short, for the sockets' paths; the servers' own account may enter it.
    with tempfile.TemporaryDirectory(prefix="gpufleet-test-") as folder:
        yield Path(folder)


@pytest.fixture
def postgres(state: Path) -> Iterator[Postgres]:
    server = Postgres(state)
    yield server
    server.stop()


@pytest.fixture
def valkey(state: Path) -> Iterator[Valkey]:
    server = Valkey(state)
    yield server
    server.stop()


def ask(server: Postgres, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


def supervised(kind: str, how: str, state: Path) -> tuple[subprocess.Popen[str], int]:
    """A server in the hands of another process: that process and the server's id."""
    command = [sys.executable, "-c", OUTLIVES_ITS_SUPERVISOR, kind, how, str(state)]
    supervisor = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    return supervisor, int(supervisor.stdout.readline())


def comes_true(holds: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_postgres_stops_and_starts_again_with_what_it_knew(postgres: Postgres) -> None:
    postgres.start()
    ask(postgres, "CREATE TABLE kept AS SELECT 7 AS n")
    postgres.stop()
    with pytest.raises(psycopg.OperationalError):
        ask(postgres, "SELECT 1")
    postgres.start()
    assert ask(postgres, "SELECT n FROM kept") == [(7,)]


def test_postgres_recovers_from_a_kill(postgres: Postgres) -> None:
    process = postgres.start()
    ask(postgres, "CREATE TABLE kept AS SELECT 7 AS n")
    process.kill()  # Not reaped: its number stays taken, and its lock files stay.
    assert (postgres.data / "postmaster.pid").exists()
    postgres.start()
    assert ask(postgres, "SELECT n FROM kept") == [(7,)]


def test_a_lock_file_that_names_some_other_process_stops_nobody(postgres: Postgres) -> None:
    process = postgres.start()
    process.kill()
    process.wait()
    lock = postgres.data / "postmaster.pid"
    with subprocess.Popen(["/bin/sleep", "600"], **embedded._privileges()) as bystander:
        try:
            lock.write_text("\n".join([str(bystander.pid), *lock.read_text().splitlines()[1:]]) + "\n")
            postgres.start()
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_the_server_listens_to_nobody_else_and_wants_its_password(postgres: Postgres) -> None:
    postgres.start()
    assert ask(postgres, "SHOW listen_addresses") == [("",)]
    assert postgres.sockets.stat().st_mode & 0o077 == 0
    assert (postgres.state / "pg-password").stat().st_mode & 0o077 == 0
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url().replace(postgres.password, "guess"))


def test_a_server_that_was_half_made_is_made_anew(postgres: Postgres) -> None:
    (postgres.data / "base").mkdir()  # initdb, killed.
    postgres.start()
    assert ask(postgres, "SELECT 1") == [(1,)]


def test_a_failure_says_why(postgres: Postgres) -> None:
    postgres.options = ["no_such_setting=1"]
    with pytest.raises(EmbeddedError, match="PostgreSQL stopped at its start with code 1"):
        postgres.start()


@pytest.mark.parametrize("kind", ["Postgres", "Valkey"])
def test_a_server_dies_with_its_supervisor(kind: str, state: Path) -> None:
    supervisor, pid = supervised(kind, "tied", state)
    assert not is_gone(pid)
    supervisor.kill()
    supervisor.communicate()
    assert comes_true(lambda: is_gone(pid))


@pytest.mark.parametrize("kind", ["Postgres", "Valkey"])
def test_a_server_that_outlives_its_supervisor_makes_way(kind: str, state: Path) -> None:
    supervisor, pid = supervised(kind, "orphan", state)
    supervisor.kill()
    supervisor.communicate()
    assert not is_gone(pid)
    server: Postgres | Valkey = getattr(embedded, kind)(state)
    try:
        server.start()
        assert is_gone(pid)
    finally:
        server.stop()
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)


def test_valkey_keeps_what_it_was_told(valkey: Valkey) -> None:
    valkey.start()
    with redis.Redis.from_url(valkey.url()) as client:
        client.set("kept", "7")
    valkey.stop()
    valkey.start()
    with redis.Redis.from_url(valkey.url()) as client:
        assert client.get("kept") == b"7"


def test_a_command_gets_servers_of_its_own_which_are_gone_afterwards() -> None:
    query = "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL']); print(os.environ['REDIS_URL'])"
    command = [sys.executable, "-m", "gpufleet.embedded", "run", "--", sys.executable, "-c", query]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    socket = Path(result.stdout.strip().removeprefix("unix://").removesuffix("?db=0"))
    assert socket.name == "valkey.sock"
    assert not socket.parent.parent.exists()


def test_the_commands_exit_code_is_ours() -> None:
    command = [sys.executable, "-m", "gpufleet.embedded", "run", "--", "/bin/sh", "-c", "exit 3"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 3


def test_a_secret_is_made_once_and_read_by_its_owner_alone(state: Path) -> None:
    first = embedded.kept_secret(state / "secret")
    assert len(first) >= 50  # check --deploy asks for that many.
    assert embedded.kept_secret(state / "secret") == first
    assert (state / "secret").stat().st_mode & 0o777 == 0o600
