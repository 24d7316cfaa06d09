"""10,000 simulated tenant-months through the real services, compared to the cent with an oracle that shares no code.

    make reconcile [SEED=1] [TENANT_MONTHS=10000]

Random jobs, rates (also late ones), plans, currencies of 0, 2 and 3 decimals, minimums and increments, invoices over
arbitrary windows (local months and days, with those of 23 and 25 hours; leap days), voids, notes by hand, of windows,
of late rates and of service levels, and calls that are killed half-way. Each worker has a database of its own.
Differences are printed; the last line is JSON, and the exit code is 1 if there are any.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")
django.setup()

from django.core.management import call_command  # noqa: E402  (Django must be set up before its apps are imported)
from django.db import connection  # noqa: E402

from apikeys.models import ApiKey, KeyKind  # noqa: E402
from benchmarks.reconcile_world import World  # noqa: E402
from clusters.models import Cluster, Node  # noqa: E402

TENANTS, MONTHS = 5, 4
LONG_AGO = "2020-01-01T00:00:00Z"
MOST_SHOWN = 20


def sizes(tenant_months: int) -> Iterator[tuple[int, int]]:
    """Worlds of five tenants and four months, and smaller ones for the rest."""
    whole, rest = divmod(tenant_months, TENANTS * MONTHS)
    yield from [(TENANTS, MONTHS)] * whole
    yield from [(1, 1)] * rest


def make_hardware() -> None:
    """The node that all GPUs of all worlds are in."""
    key = ApiKey.objects.create(
        label="simulation", kind=KeyKind.CLUSTER, digest="0" * 64, permissions=["write"], created_at=LONG_AGO
    )
    cluster = Cluster.objects.create(name="simulation", key=key, created_at=LONG_AGO)
    Node.objects.create(cluster=cluster, hostname="node-0", last_heartbeat_at=LONG_AGO, created_at=LONG_AGO)


def simulate(seed: int, tenant_months: int, *, worker: int = 0, workers: int = 1) -> dict[str, int]:
    """This worker's worlds, one after the other. Prints the differences and returns the counts."""
    make_hardware()
    counts: Counter[str] = Counter(tenant_months=0, differences=0)
    for number, (tenants, months) in enumerate(sizes(tenant_months)):
        if number % workers != worker:
            continue
        world = World(seed, number, tenants, months)
        world.run()
        counts.update(world.counts, tenant_months=tenants * months, differences=len(world.differences))
        for difference in world.differences[:MOST_SHOWN]:
            print(difference, flush=True)
        if number % 16 == worker:
            connection.cursor().execute("ANALYZE")
    return dict(counts)


def work(options: argparse.Namespace) -> None:
    """One worker, in its own database; its last line is its counts."""
    call_command("migrate", verbosity=0)
    counts = simulate(options.seed, options.tenant_months, worker=options.worker, workers=options.workers)
    print(json.dumps(counts))


def lead(options: argparse.Namespace) -> int:
    """Start the workers, pass on what they say, and add up their counts."""
    began, counts = time.monotonic(), Counter[str]()
    workers = [start_worker(options, number) for number in range(options.workers)]
    for process in workers:
        *lines, last = process.communicate()[0].splitlines() or [""]
        print(*lines, sep="\n", end="\n" if lines else "")
        if process.returncode:
            print(f"a worker ended with {process.returncode}: {last}")
            counts["differences"] += 1
        else:
            counts.update(json.loads(last))
    print(json.dumps({"seed": options.seed, **counts, "seconds": round(time.monotonic() - began)}))
    return 1 if counts["differences"] or counts["tenant_months"] != options.tenant_months else 0


def start_worker(options: argparse.Namespace, number: int) -> "subprocess.Popen[str]":
    """The same module again, with a new database. What is simulated need not survive a power cut."""
    name = f"reconcile_{os.getpid()}_{number}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()
    environment = {**os.environ, "DATABASE_URL": url, "PGOPTIONS": "-c synchronous_commit=off"}
    figures = [str(options.seed), str(options.tenant_months), str(options.workers), str(number)]
    flags = ["--seed", "--tenant-months", "--workers", "--worker"]
    arguments = [part for pair in zip(flags, figures, strict=True) for part in pair]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.reconcile", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def main() -> int:
    """The exit code: 1 if there are differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tenant-months", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.worker is None:
        return lead(options)
    work(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
