"""Nodes whose agents run in the test's own process, and jobs for them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clusters.models import Node
from django.utils import timezone
from jobs.models import Job, JobStatus, Run
from jobs.scheduler import run_cycle
from jobs.services import submit_job

from gpufleet_agent.executor import Executor
from gpufleet_agent.runs import Workload
from tests.fleet import Fleet

QUICK_S = 30.0


class Host:
    """A node's agent in this process, which can be forgotten as if it had been killed, and begun again."""

    def __init__(self, fleet: Fleet, folder: Path, hostname: str = "node-1", *, gpus: int = 2, **fields: Any) -> None:
        self.fleet, self.folder = fleet, folder
        node = fleet.client().register_node({"cluster_id": fleet.cluster.pk, "hostname": hostname, **fields})
        self.node = Node.objects.get(pk=node["id"])
        fleet.client().register_gpus(node["id"], [{"model": "H100", "uuid": f"{hostname}-{n}"} for n in range(gpus)])
        self.workload = Workload("process")
        self.restart()

    def restart(self) -> None:
        self.executor = Executor(self.fleet.client(), self.workload, self.folder / "runs", grace_s=1.0)
        self.executor.node_id = self.node.pk

    def turn(self) -> None:
        self.executor._version = None  # Ask without waiting.
        self.executor.ask()
        self.executor.settle()

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + QUICK_S
        while not condition():
            assert time.monotonic() < deadline, "it took too long"
            self.turn()
            time.sleep(0.05)

    def end(self) -> None:
        """Leave nothing running."""
        Job.objects.filter(status=JobStatus.RUNNING).update(status=JobStatus.CANCELLED, ended_at=timezone.now())
        self.executor._grace = 0.0
        self.until(lambda: not any(run.is_alive() for run in self.executor._runs().values()))


def submit(fleet: Fleet, *command: str, **fields: Any) -> Job:
    job = submit_job(
        cluster_id=fleet.cluster.pk, name="train", actor="key:1", now=timezone.now(), command=list(command), **fields
    )
    run_cycle(now=timezone.now())
    return job


def status(job: Job) -> str:
    return Job.objects.get(pk=job.pk).status


def run_of(job: Job) -> Run:
    return Run.objects.get(job=job)
