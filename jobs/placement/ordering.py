"""The policy's order: whose turn it is. Aged jobs as they aged, then priorities, then shares of quota, then age."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain

from jobs.placement.queue import Head, Line, Lines, Queue
from jobs.placement.quotas import Quotas
from jobs.placement.shapes import AGES_IN, WaitingJob


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
        by_tenant: Mapping[int | None, Lines],
        serve: Callable[[WaitingJob], bool],
        is_hopeless: Callable[[Line], bool],
        is_over: Callable[[], bool],
    ) -> None:
        """Of the tenants, whose share is smallest goes next; of its lines, the one whose head is the oldest."""
        heads_of = {tenant_id: self._heads(lines) for tenant_id, lines in by_tenant.items()}
        turns = [(self.quotas.share(pk), *heads[0][:2], pk) for pk, heads in heads_of.items() if heads]
        heapq.heapify(turns)
        while turns and not is_over():
            tenant_id = turns[0][-1]
            heads = heads_of[tenant_id]
            line = heads[0][-1]
            if is_hopeless(line) or not serve(self._first(line)):
                heapq.heappop(heads)
            else:
                self._advance(heads, line, self._head)
            while heads and is_hopeless(heads[0][-1]):
                heapq.heappop(heads)
            if heads:
                heapq.heapreplace(turns, (self.quotas.share(tenant_id), *heads[0][:2], tenant_id))
            else:
                heapq.heappop(turns)

    def _heads(self, lines: Lines) -> list[Head]:
        """Of these lines the first ones that have not been served, as a heap."""
        if not self.served:
            return list(lines.by_age())  # What is in order is a heap.
        heads = (self._head(head[-1]) if head[-1] in self.served else head for head in lines.by_age())
        left = [head for head in heads if head is not None]
        heapq.heapify(left)
        return left

    def _advance(self, heads: list[Head], line: Line, head_of: Callable[[Line], Head | None]) -> None:
        self.served[line] = self.served.get(line, 0) + 1
        _replace(heads, head_of(line))

    def _first(self, line: Line) -> WaitingJob:
        return line.jobs[self.served.get(line, 0)]

    def _head(self, line: Line, behind: int = 0) -> Head | None:
        """The first of the line that has not been served, or the one so many places behind it."""
        place = self.served.get(line, 0) + behind
        if place >= len(line.jobs):
            return None
        job = line.jobs[place]
        return job.submitted_at, job.job_id, line

    def _aged_head(self, line: Line) -> Head | None:
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
                lines = chain.from_iterable(self.queue.by_priority[priority].values())
                rests = map(self.rest_of, lines)
                aged += [job for job in chain.from_iterable(rests) if job.submitted_at <= limit]
        yield from sorted(aged, key=lambda job: (job.submitted_at + job.priority * AGES_IN, job.job_id))
        for priority in sorted(self.queue.by_priority):
            limit = self.now - priority * AGES_IN
            yield from (job for job in self._fairly(priority) if job.submitted_at > limit)

    def _fairly(self, priority: int) -> Iterator[WaitingJob]:
        by_share: dict[float, list[Lines]] = defaultdict(list)
        for tenant_id, lines in self.queue.by_priority[priority].items():
            by_share[self.quotas.share(tenant_id)].append(lines)
        for share in sorted(by_share):
            yield from self._by_age(list(chain.from_iterable(map(self._heads, by_share[share]))))

    def _by_age(self, heads: list[Head]) -> Iterator[WaitingJob]:
        """What has not been served of the lines that have these heads."""
        heapq.heapify(heads)
        given: Counter[Line] = Counter()
        while heads:
            line = heads[0][-1]
            yield line.jobs[self.served.get(line, 0) + given[line]]
            given[line] += 1
            _replace(heads, self._head(line, given[line]))


def _replace(heads: list[Head], head: Head | None) -> None:
    """The first of the heap gives way to this one, or to none."""
    if head is None:
        heapq.heappop(heads)
    else:
        heapq.heapreplace(heads, head)
