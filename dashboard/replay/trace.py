"""Reading a trace: nodes with GPUs, and tasks that want some, when, and for how long.

The format is that of Alibaba's cluster-trace-gpu-v2023 (Weng et al., "Beware of Fragmentation", USENIX ATC 2023). Its
GPU shares count as whole GPUs here, since a GPU is sold whole.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

NODE_COLUMNS = ("sn", "gpu", "model")
POD_COLUMNS = ("name", "num_gpu", "gpu_milli", "gpu_spec", "qos", "creation_time", "deletion_time", "scheduled_time")


class BadTrace(Exception):
    """The files are not what they should be; the text says where."""


@dataclass(frozen=True, slots=True)
class TraceNode:
    """A node and its GPUs, all of one model."""

    hostname: str
    gpus: int
    model: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task that wants GPUs. Times are in seconds, ``at`` from the trace's beginning; ``share``: it wanted a part of a
    GPU, and gets a whole one. ``tenant``: its class of service, for want of an owner."""

    name: str
    gpus: int
    gpu_type: str
    tenant: str
    at: int
    lasts: int
    share: bool

    @property
    def minutes(self) -> int:
        """What its owner estimates, who is always right, to the next minute."""
        return ceil(self.lasts / 60)


@dataclass(frozen=True, slots=True)
class Trace:
    """The tasks that fit the nodes, in the order in which they come; what was left out is counted."""

    nodes: Sequence[TraceNode]
    tasks: Sequence[Task]
    without_gpu: int
    never_fit: int

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return sum(node.gpus for node in self.nodes)

    @property
    def ends(self) -> int:
        """The last submission, in seconds."""
        return max((task.at for task in self.tasks), default=0)


def read_trace(nodes: Path, pods: Path, *, speed: float = 1, limit: int | None = None, every: int = 1) -> Trace:
    """Read both files. ``speed``: tasks come so many times as fast, and last as long as they did; ``limit``: only so
    many of the first that want a GPU; ``every``: only every ``every``-th node. Raises ``BadTrace``."""
    hardware = [TraceNode(row["sn"], int(row["gpu"]), row["model"]) for row in _rows(nodes, NODE_COLUMNS)]
    hardware = [node for node in hardware if node.gpus][::every]
    if not hardware:
        raise BadTrace(f"{nodes} has no node with a GPU.")
    rows = list(_rows(pods, POD_COLUMNS))
    tasks = sorted((_task(row, speed) for row in rows if int(row["num_gpu"])), key=lambda task: (task.at, task.name))
    fitting = [task for task in tasks[:limit] if _fits(task, _most(hardware))]
    return Trace(hardware, fitting, len(rows) - len(tasks), len(tasks[:limit]) - len(fitting))


def _rows(path: Path, columns: Iterable[str]) -> Iterator[Mapping[str, str]]:
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            missing = set(columns) - set(reader.fieldnames or ())
            if missing:
                raise BadTrace(f"{path} lacks the columns {', '.join(sorted(missing))}.")
            for number, row in enumerate(reader, start=2):
                _check(path, number, row, columns)
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadTrace(f"{path} can't be read: {error}") from error


def _check(path: Path, number: int, row: Mapping[str, str | None], columns: Iterable[str]) -> None:
    for name in columns:
        if row[name] is None:
            raise BadTrace(f"{path}, line {number}: {name} is missing.")
    for name in ("gpu", "num_gpu", "gpu_milli", "creation_time", "deletion_time"):
        text = row.get(name, "0")
        if text is None or not text.isdecimal():
            raise BadTrace(f"{path}, line {number}: {name} is {text!r}, and should be a whole number.")
    scheduled = row.get("scheduled_time")
    if scheduled and not scheduled.replace(".", "", 1).isdecimal():
        raise BadTrace(f"{path}, line {number}: scheduled_time is {scheduled!r}, and should be a number.")


def _task(row: Mapping[str, str], speed: float) -> Task:
    """A task that the trace never saw run lasts as long as it was there."""
    created, deleted = int(row["creation_time"]), int(row["deletion_time"])
    began = int(float(row["scheduled_time"])) if row["scheduled_time"] else created
    return Task(
        name=row["name"],
        gpus=int(row["num_gpu"]),
        gpu_type=row["gpu_spec"],
        tenant=row["qos"] or "none",
        at=round(created / speed),
        lasts=max(1, deleted - began),
        share=int(row["gpu_milli"]) < 1_000,
    )


def _most(nodes: Sequence[TraceNode]) -> Mapping[str, int]:
    most: Counter[str] = Counter()
    for node in nodes:
        most[node.model] += node.gpus
    return most


def _fits(task: Task, most: Mapping[str, int]) -> bool:
    wanted = [model for model in most if not task.gpu_type or model in task.gpu_type.split("|")]
    return any(most[model] >= task.gpus for model in wanted)
