"""The policy's order: whose turn it is. Aged jobs as they aged, then priorities, then shares of quota, then age."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from itertools import chain, islice

from jobs.placement.queue import Line, Queue, by_age
from jobs.placement.quotas import Quotas
from jobs.placement.shapes import AGES_IN, WaitingJob

# A line and its head's age, such that a heap gives the line whose head is the oldest.
_Head = tuple[datetime, int, Line]


class Turns:
    """The queue, with how far each line has been served."""

    def __init__(self, queue: Queue, quotas: Quotas, now: datetime) -> None:
        self.queue, self.quotas, self.now = queue, quotas, now
        self.served: dict[Line, int] = {}

    def pass_by(self, job: WaitingJob) -> None:
        """The first of a line has been served out of turn."""
        line = self.queue.line_of(job)
        self.served[line] = self.served.get(line, 0) + 1

    def rest_of(self, line: Line) -> Sequence[WaitingJob]:
        """Those of the line that have not been served."""
        served = self.served.get(line, 0)
        return line.jobs[served:] if served else line.jobs

    def take(
        self,
        serve: Callable[[WaitingJob], bool],
        is_hopeless: Callable[[Line], bool],
        is_over: Callable[[], bool],
    ) -> None:
        """Call ``serve`` for one job after another. What it refuses to one job, it refuses to those behind it in their
        line, which are not asked; nor are lines that are hopeless, nor anybody once it is over.

        The order depends on what has been given, so it is made as it goes.
        """
        self._take_aged(serve, is_hopeless)
        for priority in sorted(self.queue.by_priority):
            if is_over():
                break
            self._take_fairly(self.queue.by_priority[priority], serve, is_hopeless, is_over)

    def _take_aged(self, serve: Callable[[WaitingJob], bool], is_hopeless: Callable[[Line], bool]) -> None:
        heads = [head for line in self.queue.aged(self.now) if (head := self._aged_head(line)) is not None]
        heapq.heapify(heads)
        while heads:
            line = heads[0][-1]
            if is_hopeless(line) or not serve(self._first(line)):
                heapq.heappop(heads)
                continue
            self._advance(heads, line, self._aged_head)

    def _take_fairly(
        self,
        lines: Collection[Line],
        serve: Callable[[WaitingJob], bool],
        is_hopeless: Callable[[Line], bool],
        is_over: Callable[[], bool],
    ) -> None:
        """Of the tenants, whose share is smallest goes next; of its lines, the one whose head is the oldest."""
        by_tenant: dict[int | None, list[_Head]] = defaultdict(list)
        for line in lines:
            if not is_hopeless(line) and (head := self._head(line)) is not None:
                by_tenant[line.tenant_id].append(head)
        for heads in by_tenant.values():
            heapq.heapify(heads)
        turns = [(self.quotas.share(pk), *heads[0][:2], pk) for pk, heads in by_tenant.items()]
        heapq.heapify(turns)
        while turns and not is_over():
            tenant_id = turns[0][-1]
            heads = by_tenant[tenant_id]
            line = heads[0][-1]
            if is_hopeless(line) or not serve(self._first(line)):
                heapq.heappop(heads)
            else:
                self._advance(heads, line, self._head)
            if heads:
                heapq.heapreplace(turns, (self.quotas.share(tenant_id), *heads[0][:2], tenant_id))
            else:
                heapq.heappop(turns)

    def _advance(self, heads: list[_Head], line: Line, head_of: Callable[[Line], _Head | None]) -> None:
        self.served[line] = self.served.get(line, 0) + 1
        head = head_of(line)
        if head is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, head)

    def _first(self, line: Line) -> WaitingJob:
        return line.jobs[self.served.get(line, 0)]

    def _head(self, line: Line) -> _Head | None:
        served = self.served.get(line, 0)
        if served >= len(line.jobs):
            return None
        job = line.jobs[served]
        return job.submitted_at, job.job_id, line

    def _aged_head(self, line: Line) -> _Head | None:
        head = self._head(line)
        if head is None or head[0] > self.now - line.priority * AGES_IN:
            return None
        return head[0] + line.priority * AGES_IN, head[1], line

    def waiting(self) -> Iterator[WaitingJob]:
        """Those that have not been served, in the order in which their turns will come."""
        aged = []
        for priority in sorted(self.queue.by_priority):
            limit = self.now - priority * AGES_IN
            if self.queue.oldest[priority] <= limit:
                rests = (self.rest_of(line) for line in self.queue.by_priority[priority])
                aged += [job for job in chain.from_iterable(rests) if job.submitted_at <= limit]
        yield from sorted(aged, key=lambda job: (job.submitted_at + job.priority * AGES_IN, job.job_id))
        for priority in sorted(self.queue.by_priority):
            limit = self.now - priority * AGES_IN
            yield from (job for job in self._fairly(priority) if job.submitted_at > limit)

    def _fairly(self, priority: int) -> Iterator[WaitingJob]:
        by_share: dict[float, list[Line]] = defaultdict(list)
        for line in self.queue.by_priority[priority]:
            by_share[self.quotas.share(line.tenant_id)].append(line)
        for share in sorted(by_share):
            yield from heapq.merge(*map(self._unserved, by_share[share]), key=by_age)

    def _unserved(self, line: Line) -> Iterator[WaitingJob]:
        return islice(line.jobs, self.served.get(line, 0), None)
