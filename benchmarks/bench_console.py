"""How long the server takes for each page of the console, over 10,000 GPUs, 100,000 jobs and 90 days.

    make bench-console

It fills an empty database of its own and asks for each page in turn, as an administrator would, through the whole of
Django but without a network. The last line is JSON: the median seconds by page.
"""

import argparse
import json
import logging
import os
import statistics
import time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")
django.setup()

from django.contrib.auth.models import User  # noqa: E402  (Django must be set up before its apps are imported)
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import override_settings  # noqa: E402
from django.utils import timezone  # noqa: E402

from billing.models import Invoice  # noqa: E402
from clusters.models import GPU, Cluster, LatestReading, Node  # noqa: E402
from dashboard import money_pages, period  # noqa: E402
from jobs.models import Job  # noqa: E402
from tenants.models import Tenant  # noqa: E402

REPEATS = 7
LISTS = {
    "jobs": "jobs/job/",
    "jobs running": "jobs/job/?status__exact=running",
    "jobs search": "jobs/job/?q=job-7-1",
    "allocations": "jobs/allocation/",
    "wait periods": "jobs/waitperiod/",
    "job events": "jobs/jobevent/",
    "clusters": "clusters/cluster/",
    "nodes": "clusters/node/",
    "gpus": "clusters/gpu/",
    "state periods": "clusters/gpustateperiod/",
    "latest readings": "clusters/latestreading/",
    "tenants": "tenants/tenant/",
    "invoices": "billing/invoice/",
    "billed ranges": "billing/billedrange/",
    "incidents": "alerts/alertevent/",
    "audit log": "common/auditentry/",
}


def pages() -> dict[str, str]:
    """Each page by its name."""
    newest, running, oldest = (
        Job.objects.filter(status=status).earliest("pk") for status in ("queued", "running", "completed")
    )
    node, gpu, cluster, tenant, invoice = (
        model._default_manager.earliest("pk") for model in (Node, GPU, Cluster, Tenant, Invoice)
    )
    return {
        "home": "",
        "home: now": "live/",
        "home: last day and month": "live/period/",
        "home: cells of a cluster": f"live/cluster/{cluster.pk}/",
        "leakage": "leakage/",
        "leakage: figures of 30 days": "live/leakage/",
        "leakage: rows behind a bar": "leakage/no_demand/",
        "leakage: rows, fetched after": "live/leakage/no_demand/",
        **{f"list: {name}": path for name, path in LISTS.items()},
        "job, queued": f"jobs/job/{newest.pk}/change/",
        "job, running": f"jobs/job/{running.pk}/change/",
        "job, completed": f"jobs/job/{oldest.pk}/change/",
        "job: explanation": f"live/job/{newest.pk}/explanation/",
        "node": f"clusters/node/{node.pk}/change/",
        "node: metrics": f"live/node/{node.pk}/metrics/",
        "gpu": f"clusters/gpu/{gpu.pk}/change/",
        "tenant": f"tenants/tenant/{tenant.pk}/change/",
        "invoice": f"billing/invoice/{invoice.pk}/change/",
    }


def median_seconds(client: Client, path: str) -> float:
    """Of some requests, after one that is not counted."""
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        answer = client.get(f"/admin/{path}")
        seconds.append(time.perf_counter() - began)
        assert answer.status_code == 200, (path, answer.status_code)
    return statistics.median(seconds[1:])


def seconds_to_make() -> dict[str, float]:
    """What is kept for the pages, and how long it takes to make it anew (beat does): medians of three."""
    makers = {**period.MAKERS, **money_pages.makers()}
    figures = {}
    for name in ("home", *(f"leakage:USD:{days}" for days in money_pages.WINDOWS)):
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            makers[name].make(timezone.now())
            seconds.append(time.perf_counter() - began)
        figures[f"made anew: {name}"] = round(statistics.median(seconds[1:]), 3)
    return figures


def main() -> None:
    """Fill, ask, and say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    options = parser.parse_args()
    logging.disable(logging.INFO)  # A line a request would be among the figures.
    call_command("migrate", verbosity=0)
    call_command("seed_large", gpus=options.gpus, jobs=options.jobs)
    client = Client()
    client.force_login(User.objects.create_superuser("bench"))
    plain = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    figures = {}
    with override_settings(STORAGES=plain, ALLOWED_HOSTS=["testserver"]):
        for name, path in pages().items():
            figures[name] = round(median_seconds(client, path), 3)
            print(f"{name:28} {1000 * figures[name]:6.0f} ms", flush=True)
    made = seconds_to_make()
    for name, seconds in made.items():
        print(f"{name:28} {1000 * seconds:6.0f} ms")
    slow = {name: seconds for name, seconds in figures.items() if seconds >= 0.3}
    print(f"{LatestReading.objects.count()} GPUs, {Job.objects.count()} jobs; at or over 300 ms: {slow or 'none'}")
    print(json.dumps({**figures, **made}))


if __name__ == "__main__":
    main()
