"""Submissions a second by eight threads with 100,000 jobs queued, beside the usual way to write them.

    make bench-submit

The usual way locks the tenant's row (``select_for_update``), sums up what its jobs that wait or run want, compares that
with the quota and creates the job: ``create``. It checks no hardware, and writes neither event nor wait period;
``create_all`` writes these too, as our service does, and ``held`` is ``create`` with a sum of what runs alone, which is
nothing here. All ways take turns in each round; figures are medians of the rounds. Then arrays of 1,000 jobs, and the
whole way of ``POST /api/jobs`` through a web server: one job a request, with and without an ``Idempotency-Key``. The
last line is JSON.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")
django.setup()

from django.core.management import call_command  # noqa: E402  (Django must be set up before its apps are imported)
from django.db import connection, transaction  # noqa: E402
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange  # noqa: E402
from django.db.models import Sum  # noqa: E402
from django.utils import timezone  # noqa: E402

from apikeys.services import issue_key  # noqa: E402
from benchmarks.bench_ingest import free_port, granian, run_server  # noqa: E402
from benchmarks.bench_scheduler import fill  # noqa: E402
from benchmarks.load import main as load_main  # noqa: E402
from benchmarks.load import post  # noqa: E402
from clusters.models import Cluster  # noqa: E402
from jobs.models import Job, JobEvent, WaitPeriod  # noqa: E402
from jobs.services import doorbell, submit_job, submit_jobs  # noqa: E402
from tenants.models import Tenant  # noqa: E402

GPUS, QUEUED, THREADS, ROUNDS, JOBS_A_THREAD, ARRAY = 10_000, 100_000, 8, 7, 125, 1_000
HTTP_SECONDS, HTTP_CONNECTIONS = 4, 8

Submit = Callable[[int, int, int], None]


def by_service(cluster_id: int, tenant_id: int, gpu_count: int) -> None:
    """Ours."""
    submit_job(
        cluster_id=cluster_id,
        tenant_id=tenant_id,
        name="job",
        gpu_count=gpu_count,
        actor="bench",
        now=timezone.now(),
    )


def _create(cluster_id: int, tenant_id: int, gpu_count: int, *, statuses: tuple[str, ...]) -> Job:
    tenant = Tenant.objects.select_for_update().get(pk=tenant_id)
    wanted = Job.objects.filter(tenant=tenant, status__in=statuses).aggregate(gpus=Sum("gpu_count"))["gpus"] or 0
    if wanted + gpu_count > tenant.gpu_quota:
        raise RuntimeError("over quota")
    return Job.objects.create(
        cluster_id=cluster_id, tenant=tenant, name="job", gpu_count=gpu_count, submitted_at=timezone.now()
    )


@transaction.atomic
def by_create(cluster_id: int, tenant_id: int, gpu_count: int) -> None:
    """The usual way."""
    _create(cluster_id, tenant_id, gpu_count, statuses=("queued", "running"))


@transaction.atomic
def by_create_of_held(cluster_id: int, tenant_id: int, gpu_count: int) -> None:
    """The same, with the sum of what runs."""
    _create(cluster_id, tenant_id, gpu_count, statuses=("running",))


@transaction.atomic
def by_create_all(cluster_id: int, tenant_id: int, gpu_count: int) -> None:
    """The usual way, with all rows that ours writes."""
    job = _create(cluster_id, tenant_id, gpu_count, statuses=("queued", "running"))
    WaitPeriod.objects.create(job=job, code="scheduler", during=DateTimeTZRange(job.submitted_at, None))
    JobEvent.objects.create(job=job, at=job.submitted_at, to_status="queued", actor="bench", reason="submitted")


WAYS: dict[str, Submit] = {
    "service": by_service,
    "create": by_create,
    "create_all": by_create_all,
    "held": by_create_of_held,
}


def rate_of(submit: Submit, jobs_a_thread: int) -> tuple[float, float]:
    """Jobs a second by all threads together, and the 99th percentile of how long one took, in seconds."""
    places = list(itertools.product(_ids(Cluster), _ids(Tenant)))
    took: list[float] = []
    failures: list[BaseException] = []
    ready = threading.Barrier(THREADS + 1)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            connection.ensure_connection()
            ready.wait()
            for _ in range(jobs_a_thread):
                began = time.perf_counter()
                submit(*chance.choice(places), chance.choice((1, 1, 1, 2, 2, 4, 8)))
                took.append(time.perf_counter() - began)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return len(took) / (time.perf_counter() - began), statistics.quantiles(took, n=100)[98]


def _ids(model: Any) -> list[int]:
    return list(model.objects.order_by("pk").values_list("pk", flat=True))


def threads(rounds: int, jobs_a_thread: int) -> dict[str, Any]:
    """The ways in turns: medians of the rates, of ours over each other one's of its round, and of ours' p99."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for submit in WAYS.values():
        rate_of(submit, 20)
    for _ in range(rounds):
        for name, submit in WAYS.items():
            runs[name].append(rate_of(submit, jobs_a_thread))
    rates = {name: [rate for rate, _ in found] for name, found in runs.items()}
    for name, found in rates.items():
        print(f"{name:>10}: {statistics.median(found):6.0f} jobs/s ({min(found):.0f} to {max(found):.0f})", flush=True)
    ratios = {
        f"ratio_to_{name}": round(statistics.median(map(float.__truediv__, rates["service"], found)), 2)
        for name, found in rates.items()
        if name != "service"
    }
    p99 = statistics.median(p99 for _, p99 in runs["service"])
    return {"jobs_per_s": round(statistics.median(rates["service"])), **ratios, "p99_ms": round(1000 * p99, 1)}


def arrays(rounds: int) -> float:
    """Jobs a second of one thread that submits arrays."""
    places = list(itertools.product(_ids(Cluster), _ids(Tenant)))
    rates = []
    for _ in range(rounds):
        wishes = [
            {"cluster_id": cluster_id, "tenant_id": tenant_id, "name": "job", "gpu_count": 2}
            for cluster_id, tenant_id in itertools.islice(itertools.cycle(places), ARRAY)
        ]
        began = time.perf_counter()
        submit_jobs(wishes=wishes, actor="bench", now=timezone.now())  # type: ignore[arg-type]  # wishes they are
        rates.append(ARRAY / (time.perf_counter() - began))
    return statistics.median(rates)


def requests_of(order: dict[str, Any]) -> Iterator[bytes]:
    """For ``benchmarks.load``: jobs of all tenants on all clusters, or arrays of them."""
    chance = random.Random(7)
    while True:
        wishes = [
            {
                "cluster_id": chance.choice(order["clusters"]),
                "tenant_id": chance.choice(order["tenants"]),
                "name": "job",
                "gpu_count": chance.choice((1, 1, 1, 2, 2, 4, 8)),
            }
            for _ in range(order["size"])
        ]
        key = f"Idempotency-Key: {uuid.uuid4().hex}\r\n" if order["keyed"] else ""
        yield post("/api/jobs", json.dumps(wishes if order["size"] > 1 else wishes[0]).encode(), order["headers"] + key)


def over_http() -> dict[str, Any]:
    """Requests a second at eight connections to two web processes, and their p50 and p99 in milliseconds."""
    raw = issue_key(label="bench", permissions=["write"], created_by="bench", now=timezone.now()).raw
    port, found = free_port(), {}
    order = {
        "host": "127.0.0.1",
        "port": port,
        "clusters": _ids(Cluster),
        "tenants": _ids(Tenant),
        "headers": f"Authorization: Bearer {raw}\r\nContent-Type: application/json\r\n",
        "seconds": HTTP_SECONDS,
        "connections": HTTP_CONNECTIONS,
    }
    with ExitStack() as stack:
        run_server(stack, "gpufleet", granian(port, "gpufleet.wsgi:application", 2, 16), port)
        runs = {"http": (1, False, 8), "http_alone": (1, False, 1), "http_keyed": (1, True, 8)}
        for name, (size, keyed, connections) in {**runs, "http_array": (ARRAY, False, 1)}.items():
            for _ in range(2):  # The first one warms up.
                one = _load({**order, "size": size, "keyed": keyed, "connections": connections})
            found[name] = {"per_s": round(one["per_s"], 1), "p50_ms": one["p50_ms"], "p99_ms": one["p99_ms"]}
    return {name: {part: round(value, 1) for part, value in one.items()} for name, one in found.items()}


def _load(order: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bench_submit", json.dumps(order), "load"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queued", type=int, default=QUEUED)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--jobs", type=int, default=JOBS_A_THREAD, help="of each thread in a round")
    parser.add_argument("--http", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    call_command("migrate", verbosity=0)
    fill(GPUS, options.queued, quota=1_000_000)
    with doorbell.stand_in(lambda: None):
        figures = threads(options.rounds, options.jobs)
        figures["array_jobs_per_s"] = round(arrays(options.rounds))
    print(json.dumps({**figures, **(over_http() if options.http else {})}))


if __name__ == "__main__":
    if sys.argv[-1] == "load":
        load_main(requests_of)
    else:
        main()
