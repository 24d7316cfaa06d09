"""``make up``: PostgreSQL, Valkey, web, worker, beat and the demo fleet, started in order and stopped in reverse.

Run as ``python -m gpufleet.up``; ``python -m gpufleet.up reset`` empties the state folder, and ``python -m gpufleet.up
run -- command`` runs a command on what is up. Children die with this process, however it dies.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from gpufleet.embedded import EmbeddedError, Postgres, Valkey, kept_secret, prepare_state
from gpufleet.env import celery_url
from gpufleet.supervisor import ROOT, System, UpError

PORT_FREE_WITHIN_SECONDS = 4
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def default_state() -> Path:
    """The state folder: GPUFLEET_STATE, or a place that outlives the checkout."""
    if chosen := os.environ.get("GPUFLEET_STATE"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/gpufleet")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "gpufleet"


def main(arguments: list[str]) -> int:
    """Start, reset or run beside; see the module's text. Returns the exit code."""
    state = default_state()
    try:
        if arguments[:1] == ["reset"]:
            return reset(state)
        if arguments[:2] == ["run", "--"]:
            return run_beside(state, arguments[2:])
        return up(state)
    except (UpError, EmbeddedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def up(state: Path) -> int:
    """Start everything, print where it is, and stay until told to stop or a child dies."""
    port = _port()
    _check_ours(state)
    prepare_state(state)
    with _lock(state) as lock:
        _check_port(port)
        _catch_signals()
        state.joinpath("logs").mkdir(exist_ok=True)
        system = System(state)
        try:
            start(system, port)
            _announce(lock, port)
            while True:
                system.check_children()
                system.bound_logs()
                time.sleep(0.5)
        except Stopped:
            print()
            return 0
        finally:
            system.stop()


def start(system: System, port: int) -> None:
    """Servers, database, web, worker, beat, demo fleet: each waits until what it needs answers."""
    system.environment |= {**_settings(system.state), "PYTHONUNBUFFERED": "1"}
    start_servers(system)
    manage = [sys.executable, "manage.py"]
    collect_static(system, manage)
    demo = ["--demo"] if _demo() else []
    system.run("bootstrap", *manage, "bootstrap", "--state", str(system.state), *demo)
    start_processes(system, manage, port)
    print_welcome(system, port)


def start_servers(system: System) -> None:
    """PostgreSQL and Valkey of our own, unless the environment names others, which then must answer now."""
    if url := os.environ.get("DATABASE_URL"):
        _check_database(url)
    else:
        system.say("starting PostgreSQL")
        postgres = Postgres(system.state)
        path, log = system.open_log("postgres")
        system.adopt("postgres", postgres.start(log), signal.SIGINT, path)
        system.environment["DATABASE_URL"] = postgres.url()
    if url := os.environ.get("REDIS_URL"):
        _check_redis(url)
    else:
        system.say("starting Valkey")
        valkey = Valkey(system.state)
        path, log = system.open_log("valkey")
        system.adopt("valkey", valkey.start(log), signal.SIGTERM, path)
        system.environment["REDIS_URL"] = valkey.url()


def collect_static(system: System, manage: list[str]) -> None:
    """Only when a file or a package has changed since the last time, since it takes seconds."""
    stamp = system.state / "static-stamp"
    sources = [ROOT / "requirements.txt", *ROOT.glob("*/static/**/*")]
    newest = str(max(path.stat().st_mtime_ns for path in sources))
    if stamp.exists() and stamp.read_text() == newest:
        return
    system.say("collecting static files")
    system.run("collectstatic", *manage, "collectstatic", "--noinput", "--verbosity", "0")
    stamp.write_text(newest)


def start_processes(system: System, manage: list[str], port: int) -> None:
    """Web, worker, beat and the demo fleet."""
    system.say("starting web, worker and beat")
    began = time.time()
    _ring_for_a_tick(system.environment["REDIS_URL"])
    celery = [sys.executable, "-m", "celery", "-A", "gpufleet"]
    granian = str(Path(sys.executable).parent / "granian")
    web = ["--interface", "wsgi", "--host", _host(), "--port", str(port), "--blocking-threads", "8"]
    system.launch("web", granian, *web, "--http", "1", "--no-ws", "gpufleet.wsgi:application")
    # Threads, so that no child of a killed worker lives on.
    quiet = ["--without-gossip", "--without-mingle", "--loglevel", "INFO"]
    system.launch("worker", *celery, "worker", "--pool", "threads", "--concurrency", "4", *quiet)
    schedule = system.state / "beat-schedule"
    system.launch("beat", *celery, "beat", "--schedule", str(schedule), "--pidfile", "", "--loglevel", "INFO")
    system.wait_for("web, worker and scheduler", lambda: _is_ready(port, since=began))
    system.wait_for("beat", lambda: any(system.state.glob("beat-schedule*")))
    if _demo() and (system.state / "demo.json").exists():  # It is not, beside an inventory of one's own.
        fleet = ["simulate_fleet", "--server", _address(port), "--state", str(system.state)]
        system.launch("demo-fleet", *manage, *fleet)
    system.say("everything answers")


def print_welcome(system: System, port: int) -> None:
    """Where it is and how to get in, with calls to try."""
    credentials = json.loads((system.state / "credentials.json").read_text())
    url, key = _address(port), credentials["api_key"]
    print(
        f"""
  gpufleet is up.

    Console   {url}/admin/
    Login     {credentials["username"]}
    Password  {credentials["password"]}
    API       {url}/api/docs
    API key   {key}
    State     {system.state}   (logs in {system.logs})

  Try:

    export KEY={key}
    curl -H "Authorization: Bearer $KEY" {url}/api/clusters
    curl -H "Authorization: Bearer $KEY" "{url}/api/jobs?status=running&limit=5"
    curl -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\
         -d '{{"cluster_id": 1, "name": "hello", "gpu_count": 1}}' {url}/api/jobs

  Ctrl-C stops everything. What it knows stays; `make reset` forgets it.
""",
        flush=True,
    )


def reset(state: Path) -> int:
    """Delete the state folder. Raises ``UpError`` while a system runs on it."""
    if not state.exists():
        print(f"{state} is empty already.")
        return 0
    _check_ours(state)
    with _lock(state):
        shutil.rmtree(state)
    print(f"{state} is empty.")
    return 0


def run_beside(state: Path, command: list[str]) -> int:
    """Run a command on the servers of the system that is up."""
    if not (state / "up.lock").exists():
        raise UpError(f"Nothing was ever started on {state}; `make up` does it.")
    servers = {
        "DATABASE_URL": os.environ.get("DATABASE_URL") or Postgres(state).url(),
        "REDIS_URL": os.environ.get("REDIS_URL") or Valkey(state).url(),
    }
    environment = {**os.environ, **_settings(state), **servers}
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


def _settings(state: Path) -> dict[str, str]:
    """What gpufleet's settings are told of this state folder and this address; what the environment says goes first."""
    return {
        "SECRET_KEY": os.environ.get("SECRET_KEY") or kept_secret(state / "secret-key"),
        "GPUFLEET_STATE": str(state),
        "STATIC_ROOT": str(state / "static"),
        "ALLOWED_HOSTS": os.environ.get("ALLOWED_HOSTS") or f"localhost,127.0.0.1,[::1],{_host()}",
    }


class Stopped(Exception):
    """Somebody asked us to stop."""


def _catch_signals() -> None:
    def stopped(number: int, frame: FrameType | None) -> NoReturn:
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped

    for each in STOP_SIGNALS:
        if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:  # Under nohup it stays ignored.
            signal.signal(each, stopped)


class _lock:
    """The one system of a state folder. Raises ``UpError`` with the other's address."""

    def __init__(self, state: Path) -> None:
        self.file = (state / "up.lock").open("a+")

    def __enter__(self) -> IO[str]:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.seek(0)
            where = self.file.read().strip() or "it is still starting"
            raise UpError(f"gpufleet runs already on {Path(self.file.name).parent}: {where}") from None
        self.file.truncate(0)
        return self.file

    def __exit__(self, *args: object) -> None:
        self.file.close()


def _announce(lock: IO[str], port: int) -> None:
    lock.write(f"{_address(port)}\n")
    lock.flush()


def _port() -> int:
    text = os.environ.get("PORT") or "8000"
    if not text.isdigit() or not 0 < int(text) < 65_536:
        raise UpError(f"PORT={text} is not a port.")
    return int(text)


def _host() -> str:
    return os.environ.get("HOST") or "127.0.0.1"


def _address(port: int) -> str:
    """Where the web is reached from this machine."""
    host = "127.0.0.1" if _host() == "0.0.0.0" else _host()  # noqa: S104  (only compared)
    return f"http://{host}:{port}"


def _demo() -> bool:
    return os.environ.get("DEMO", "1") not in ("0", "false", "no")


def _check_ours(state: Path) -> None:
    """Its permissions will be changed and `make reset` empties it, so a folder with other things in it is refused."""
    if state.is_dir() and any(state.iterdir()) and not (state / "up.lock").exists():
        raise UpError(f"{state} is not empty and not a state folder of gpufleet's; set GPUFLEET_STATE to another.")


def _check_port(port: int) -> None:
    """What a killed system left behind needs a moment to let go of its port."""
    deadline = time.monotonic() + PORT_FREE_WITHIN_SECONDS
    while (refusal := _bind(port)) is not None:
        if time.monotonic() > deadline:
            raise UpError(f"Port {port} on {_host()} is taken ({refusal}); try `make up PORT={port + 1}`.")
        time.sleep(0.2)


def _bind(port: int) -> str | None:
    """Why the port can't be had, or None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_host(), port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _check_database(url: str) -> None:
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.Error as error:
        raise UpError(f"The database of DATABASE_URL does not answer: {error}") from error


def _check_redis(url: str) -> None:
    import redis

    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except redis.RedisError as error:
        raise UpError(f"The server of REDIS_URL does not answer: {error}") from error


def _ring_for_a_tick(redis_url: str) -> None:
    """The worker's first task, so that nobody waits half a minute for beat's."""
    from celery import Celery

    with Celery(broker=celery_url(redis_url), set_as_current=False) as broker:
        broker.send_task("jobs.tick", ignore_result=True)


def _is_ready(port: int, *, since: float) -> bool:
    """Whether /readyz is content, and the scheduler has run a cycle since our start."""
    address = f"{_address(port)}/readyz"
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310  (the scheme is ours)
            age = json.load(answer)["checks"]["scheduler"]["last_cycle_age_s"]
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return bool(age <= time.time() - since)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
