"""What a course comes to: waits, utilization, sold time, fragmentation."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from jobs.simulation.shapes import Course, Holding


@dataclass(frozen=True, slots=True)
class Waits:
    """How long jobs waited from submission to start, in seconds, by nearest rank over all that were submitted; None
    where that job had not started by the end. ``waiting``: how many had not."""

    started: int
    waiting: int
    p50_s: float | None
    p95_s: float | None


def waits_of(course: Course, until: datetime, *, of_tenant: int | None = None) -> Waits:
    """The waits of the jobs that were submitted before ``until``: of one tenant's, or of all."""
    starts: dict[int, datetime] = {}
    for one in course.holdings:
        if not one.ran_before and one.start <= until:
            starts.setdefault(one.job_id, one.start)  # One that was preempted starts again.
    waits = []
    for job_id, job in course.submitted.items():
        if job.submitted_at <= until and of_tenant in (None, job.tenant_id):
            start = starts.get(job_id)
            waits.append(None if start is None else (start - job.submitted_at).total_seconds())
    return summary(waits)


def summary(waits: Sequence[float | None]) -> Waits:
    """Waits in seconds, None for a job that still waits, in figures."""
    known = sorted(wait for wait in waits if wait is not None)
    return Waits(len(known), len(waits) - len(known), *(_rank(known, len(waits), share) for share in (0.5, 0.95)))


def _rank(known: Sequence[float], total: int, share: float) -> float | None:
    place = ceil(share * total)
    return known[place - 1] if 0 < place <= len(known) else None


def seconds_held(holding: Holding, start: datetime, until: datetime) -> float:
    """GPU-seconds of a holding within ``[start, until)``."""
    end = until if holding.end is None else min(holding.end, until)
    return max(0.0, (end - max(holding.start, start)).total_seconds()) * holding.gpus


def held_by(
    holdings: Iterable[Holding], start: datetime, until: datetime, key: Callable[[Holding], object]
) -> dict[object, float]:
    """GPU-seconds held within ``[start, until)``, by a key of the holding."""
    found: dict[object, float] = defaultdict(float)
    for holding in holdings:
        found[key(holding)] += seconds_held(holding, start, until)
    return found


def stranded_share(
    holdings: Iterable[Holding], sizes: Mapping[int, int], start: datetime, until: datetime
) -> float | None:
    """Of the idle GPU-seconds in ``[start, until)``, the part on nodes that were partly held: idle, and no whole node.

    ``sizes``: GPUs by node. None when nothing was idle.
    """
    changes: list[tuple[datetime, int, int]] = []
    for one in holdings:
        begin, end = max(one.start, start), until if one.end is None else min(one.end, until)
        if begin < end:
            changes += [(begin, node_id, gpus) for node_id, gpus in one.nodes.items()]
            changes += [(end, node_id, -gpus) for node_id, gpus in one.nodes.items()]
    held: Counter[int] = Counter()
    since = dict.fromkeys(sizes, start)
    idle = stranded = 0.0
    for at, node_id, gpus in [*sorted(changes), *((until, node_id, 0) for node_id in sizes)]:
        spent = (at - since[node_id]).total_seconds() * (sizes[node_id] - held[node_id])
        idle += spent
        stranded += spent if held[node_id] else 0
        held[node_id] += gpus
        since[node_id] = at
    return stranded / idle if idle else None
