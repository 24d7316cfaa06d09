"""A pytest plugin that gives the tests a PostgreSQL and a Valkey of their own, before Django reads its settings.

Loaded with ``-p gpufleet.pytest_servers``, since pytest-django reads the settings before any conftest. Under xdist
the controller starts the servers and its workers inherit the addresses; pytest-django gives each worker a database.
``GPUFLEET_TEST_DATABASE_URL`` and ``GPUFLEET_TEST_REDIS_URL`` name servers to use instead.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from gpufleet.embedded import Postgres, Valkey

# The data of a test need not survive a power cut, so nothing waits for the disk.
FAST_AND_FORGETFUL = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off"]

_state: Path | None = None
_servers: list[Postgres | Valkey] = []


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Start what the environment does not name, and tell Django where it is."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        # A database of Valkey's for each worker too, so that no worker counts, rings or flushes for another.
        number = int(worker.removeprefix("gw")) + 1
        os.environ["REDIS_URL"] = os.environ["REDIS_URL"].replace("?db=0", f"?db={number}")
        return
    os.environ["SECRET_KEY"] = "only-for-tests-" + "x" * 40
    os.environ["DATABASE_URL"] = os.environ.get("GPUFLEET_TEST_DATABASE_URL") or _start_postgres()
    os.environ["REDIS_URL"] = os.environ.get("GPUFLEET_TEST_REDIS_URL") or _start_valkey()
    # All tests call from one address, and a quick machine makes more calls a minute than one address may. The tests of
    # the limits set their own.
    os.environ["API_RATE_PER_KEY"] = os.environ["API_RATE_ANONYMOUS"] = "1000000"
    # Its threads have connections of their own, which see nothing of a test's transaction; its tests turn it on.
    os.environ["METRICS_GROUP_COMMIT"] = "0"
    # Pages are tested without a collectstatic before them; the manifest is tested by `up`.
    static = _folder() / "static"
    static.mkdir(exist_ok=True)
    os.environ["STATIC_ROOT"] = str(static)
    os.environ["STATICFILES_STORAGE"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
    stripe = ("STRIPE_API_KEY", "STRIPE_API_BASE", "STRIPE_WEBHOOK_SECRET")
    for name in ("GPUFLEET_DEMO", "DEBUG", "HTTPS_ONLY", "METRICS_DATABASE_URL", *stripe):
        os.environ.pop(name, None)


def pytest_unconfigure() -> None:
    """Stop the servers and remove their folder."""
    global _state
    while _servers:
        _servers.pop().stop()
    if _state is not None:
        shutil.rmtree(_state, ignore_errors=True)
        _state = None


def _folder() -> Path:
    """One folder a run, short enough for a socket's path, which the servers' own account may enter."""
    global _state
    if _state is None:
        _state = Path(tempfile.mkdtemp(prefix="gpufleet-test-"))
        _state.chmod(0o711)
    return _state


def _start_postgres() -> str:
    server = Postgres(_folder(), options=FAST_AND_FORGETFUL)
    _servers.append(server)
    server.start()
    return server.url()


def _start_valkey() -> str:
    server = Valkey(_folder())
    _servers.append(server)
    server.start()
    return server.url()
