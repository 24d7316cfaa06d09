"""How long one plan takes, by itself: ``python -m benchmarks.bench_placement [folder of openb-gpu-2023]``.

Synthetic worlds of 10,000 and 100,000 GPUs with 100,000 jobs in the queue, and, where its folder is given, the nodes
and jobs of Alibaba's cluster-trace-gpu-v2023 (Weng et al., USENIX ATC 2023) all waiting at once on the idle cluster.
Each figure is the median of five plans, in milliseconds; the last line is JSON.
"""

import csv
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.placement import NodeView, Snapshot, TenantView, WaitingJob, plan

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MODELS = ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA L40S", "NVIDIA A10"]
SIZES = [1, 1, 1, 2, 2, 4, 8, 16]
REPEATS = 5


def node(number: int, cluster: int, model: str, gpus: int) -> NodeView:
    """A node with all of its GPUs free."""
    return NodeView(number, cluster, f"node-{number}", {model: range(number * 100, number * 100 + gpus)})


def synthetic(gpus: int, jobs: int, *, quota: int) -> Snapshot:
    """Four clusters of one model each on eight-GPU nodes, fifty tenants, mixed sizes and priorities."""
    chance = random.Random(gpus)
    nodes = [node(number, number % 4, MODELS[number % 4], 8) for number in range(gpus // 8)]
    queue = [
        WaitingJob(
            job_id=number,
            cluster_id=chance.randrange(4),
            tenant_id=chance.randrange(50),
            gpu_count=chance.choice(SIZES),
            gpu_type="",
            priority=chance.randint(1, 10),
            submitted_at=NOON + timedelta(seconds=number),
        )
        for number in range(jobs)
    ]
    tenants = {number: TenantView(quota=quota, held=0) for number in range(50)}
    largest = {(number, MODELS[number]): 8 for number in range(4)}
    return Snapshot(queue, nodes, tenants, largest, gpu_total=gpus)


def traced(folder: Path) -> Snapshot:
    """The trace's whole GPUs: its nodes idle, and every task that wants a GPU in the queue, one tenant a QoS class."""
    with (folder / "nodes.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["gpu"])]
    nodes = [node(number, 1, row["model"], int(row["gpu"])) for number, row in enumerate(rows, start=1)]
    largest: dict[tuple[int, str], int] = {}
    for row in rows:
        largest[1, row["model"]] = max(largest.get((1, row["model"]), 0), int(row["gpu"]))
    queue = list(_tasks(folder / "pods_gpuspec33.csv"))
    quotas = {tenant: TenantView(quota=10_000, held=0) for tenant in {job.tenant_id for job in queue} if tenant}
    return Snapshot(queue, nodes, quotas, largest, gpu_total=sum(int(row["gpu"]) for row in rows))


def _tasks(path: Path) -> Iterator[WaitingJob]:
    classes = {"LS": 1, "Burstable": 2, "BE": 3, "Guaranteed": 4}
    with path.open() as file:
        for number, row in enumerate(csv.DictReader(file)):
            if int(row["num_gpu"]):
                submitted_at = NOON + timedelta(seconds=float(row["creation_time"]))
                tenant = classes.get(row["qos"], 5)
                yield WaitingJob(number, 1, tenant, int(row["num_gpu"]), row["gpu_spec"] or "", 5, submitted_at)


def measure(snapshot: Snapshot) -> dict[str, float]:
    """The median time of a plan, and what it did."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        result = plan(snapshot, NOON)
        times.append((time.perf_counter() - began) * 1000)
    given = sum(len(start.gpu_ids) for start in result.starts)
    return {"plan_ms": round(statistics.median(times), 1), "started": len(result.starts), "gpus_given": given}


def main() -> None:
    """Measure every world."""
    worlds = {
        "10k_gpus_100k_jobs": synthetic(10_000, 100_000, quota=10_000),
        "10k_gpus_100k_jobs_quota_binds": synthetic(10_000, 100_000, quota=100),
        "100k_gpus_100k_jobs": synthetic(100_000, 100_000, quota=100_000),
    }
    if len(sys.argv) > 1:
        worlds["openb_gpu_2023"] = traced(Path(sys.argv[1]))
    figures = {}
    for name, snapshot in worlds.items():
        figures[name] = measure(snapshot)
        print(f"{name}: {figures[name]}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
