"""The queue as the planner reads it: jobs that are alike in all but their age stand in one line.

Whatever keeps one job of a line from its start keeps the whole line, so that a plan looks at the heads of lines, and
its cost follows how many kinds of jobs wait, not how many jobs.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from jobs.placement.shapes import AGES_IN, WaitingJob

by_age = attrgetter("submitted_at", "job_id")


class Wish(NamedTuple):
    """What of a job decides whether the hardware can take it."""

    cluster_id: int
    gpu_type: str
    gpu_count: int


class Kind(NamedTuple):
    """What of a job decides why it waits."""

    wish: Wish
    tenant_id: int | None


Group = tuple[Wish, int | None]


class Line:
    """Jobs alike in all but their age, the oldest first. A job with a claim stands alone."""

    __slots__ = ("group", "jobs", "kind", "minutes", "priority", "tenant_id", "wish")

    def __init__(self, job: WaitingJob) -> None:
        self.kind = kind_of(job)
        self.wish = self.kind.wish
        self.tenant_id = job.tenant_id
        self.priority = job.priority
        self.minutes = job.minutes
        # What decides whether the hardware can take any of them, by itself or beside a reservation.
        self.group = self.wish, job.minutes
        self.jobs: list[WaitingJob] = []


_LineKey = tuple[Kind, int, int | None, datetime | None]
# A line and its head's age, such that of two the one sorts first whose head is the older.
Head = tuple[datetime, int, Line]


class Lines(Collection[Line]):
    """The lines of one tenant and priority. Their order by the age of their heads is made when it is first asked for,
    and kept from then on, so that a plan that comes back to the queue finds it made."""

    __slots__ = ("_by_age", "_lines")

    def __init__(self) -> None:
        self._lines: set[Line] = set()
        self._by_age: list[Head] | None = None

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, line: object) -> bool:
        return line in self._lines

    def by_age(self) -> Sequence[Head]:
        """Each with its head's age, the oldest first, until the queue changes."""
        if self._by_age is None:
            self._by_age = sorted(map(_head_of, self._lines))
        return self._by_age

    def set_head(self, line: Line, before: WaitingJob | None) -> None:
        """The line has another head than ``before``, or the first or none at all."""
        if before is None:
            self._lines.add(line)
        elif not line.jobs:
            self._lines.remove(line)
        if self._by_age is None:
            return
        if before is not None:
            del self._by_age[bisect_left(self._by_age, by_age(before))]  # What is shorter sorts first.
        if line.jobs:
            insort(self._by_age, _head_of(line))


def _head_of(line: Line) -> Head:
    job = line.jobs[0]
    return job.submitted_at, job.job_id, line


class Queue(Collection[WaitingJob]):
    """The jobs that wait, in no order of their own; ``planner.Planner`` knows the policy's."""

    def __init__(self, jobs: Iterable[WaitingJob] = ()) -> None:
        self.jobs: dict[int, WaitingJob] = {}
        self.lines: dict[_LineKey, Line] = {}
        self.by_priority: dict[int, dict[int | None, Lines]] = defaultdict(lambda: defaultdict(Lines))
        self.by_kind: dict[Kind, set[Line]] = defaultdict(set)
        self.groups: Counter[Group] = Counter()
        self.claims: dict[int, WaitingJob] = {}
        # GPUs that each tenant's jobs ask for, all together.
        self.wanted: Counter[int | None] = Counter()
        # No job of the priority is older than this; the oldest of them may have left the queue.
        self.oldest: dict[int, datetime] = {}
        for job in sorted(jobs, key=by_age):
            self.add(job)

    def __iter__(self) -> Iterator[WaitingJob]:
        return iter(self.jobs.values())

    def __len__(self) -> int:
        return len(self.jobs)

    def __contains__(self, job: object) -> bool:
        return isinstance(job, WaitingJob) and self.jobs.get(job.job_id) == job

    def add(self, job: WaitingJob) -> None:
        """Let a job wait that does not yet."""
        key = _key(job)
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = Line(job)
            self.by_kind[line.kind].add(line)
            self.groups[line.group] += 1
        head = line.jobs[0] if line.jobs else None
        if line.jobs and by_age(line.jobs[-1]) > by_age(job):
            insort(line.jobs, job, key=by_age)
        else:
            line.jobs.append(job)
        if line.jobs[0] is job and job.claimed_at is None:
            self.by_priority[job.priority][job.tenant_id].set_head(line, head)
        self.jobs[job.job_id] = job
        self.wanted[job.tenant_id] += job.gpu_count
        if job.claimed_at is not None:
            self.claims[job.job_id] = job
        self.oldest[job.priority] = min(self.oldest.get(job.priority, job.submitted_at), job.submitted_at)

    def remove(self, job_id: int) -> WaitingJob | None:
        """Let a job leave; None when it does not wait."""
        job = self.jobs.pop(job_id, None)
        if job is None:
            return None
        key = _key(job)
        line = self.lines[key]
        place = bisect_left(line.jobs, by_age(job), key=by_age)
        del line.jobs[place]
        if place == 0 and job.claimed_at is None:
            self.by_priority[job.priority][job.tenant_id].set_head(line, job)
        self.wanted[job.tenant_id] -= job.gpu_count
        self.claims.pop(job_id, None)
        if not line.jobs:
            self._drop(key, line)
        return job

    def line_of(self, job: WaitingJob) -> Line:
        """The line in which the job stands. Raises ``KeyError`` when it does not wait."""
        return self.lines[_key(job)]

    def _drop(self, key: _LineKey, line: Line) -> None:
        del self.lines[key]
        self.groups[line.group] -= 1
        if not self.groups[line.group]:
            del self.groups[line.group]
        self.by_kind[line.kind].discard(line)
        if not self.by_kind[line.kind]:
            del self.by_kind[line.kind]
        if not self.by_priority[line.priority][line.tenant_id]:
            del self.by_priority[line.priority][line.tenant_id]
        if not self.by_priority[line.priority]:
            del self.by_priority[line.priority]
            self.oldest.pop(line.priority, None)

    def aged(self, now: datetime) -> list[Line]:
        """The lines whose oldest job has aged."""
        found = []
        for priority, by_tenant in self.by_priority.items():
            limit = now - priority * AGES_IN
            if self.oldest[priority] <= limit:
                lines = list(chain.from_iterable(by_tenant.values()))
                self.oldest[priority] = min(line.jobs[0].submitted_at for line in lines)
                found += [line for line in lines if line.jobs[0].submitted_at <= limit]
        return found


def queue_of(jobs: Collection[WaitingJob]) -> Queue:
    """The jobs as a queue, which they may be already."""
    return jobs if isinstance(jobs, Queue) else Queue(jobs)


def kind_of(job: WaitingJob) -> Kind:
    """What of a job decides why it waits."""
    return Kind(wish_of(job), job.tenant_id)


def wish_of(job: WaitingJob) -> Wish:
    """What of a job decides whether the hardware can take it."""
    return Wish(job.cluster_id, job.gpu_type, job.gpu_count)


def _key(job: WaitingJob) -> _LineKey:
    return kind_of(job), job.priority, job.minutes, job.claimed_at
