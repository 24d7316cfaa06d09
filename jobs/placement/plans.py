"""A plan: what is decided about every job of a snapshot."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import islice

from jobs.placement.planner import Planner
from jobs.placement.queue import Kind, kind_of
from jobs.placement.reasoning import Reasoning
from jobs.placement.shapes import Preemption, Reason, Reservation, Snapshot, Start, Wait, WaitingJob


def plan(snapshot: Snapshot, now: datetime) -> "Plan":
    """Decide about every waiting job, in the policy's order."""
    planner = Planner(snapshot, now)
    planner.run()
    return Plan(planner)


class Plan:
    """What to do about every job of the snapshot: each is in exactly one start or wait.

    Starts are in their order. ``reservations`` by cluster. ``spared`` are jobs that were to be preempted, and need not
    be any more; ``unclaimed`` are jobs that others were preempted for, and who get nothing of it after all. What is
    said of the whole queue is made when it is asked for, and as long as the snapshot's queue stays as it is.
    """

    def __init__(self, planner: Planner) -> None:
        self._planner, self._reasoning = planner, Reasoning(planner)
        self.starts: Sequence[Start] = planner.starts
        self.reservations: Mapping[int, Reservation] = planner.reservations
        self.preemptions: Sequence[Preemption] = planner.preemptions
        self.spared: Sequence[int] = planner.spared
        self.unclaimed: Sequence[int] = planner.unclaimed
        self.waiting_count = len(planner.queue) - len(planner.starts)

    @cached_property
    def reasons(self) -> Mapping[Kind, Reason]:
        """Why the jobs of each kind wait, but for the ``exceptions``."""
        return self._reasoning.of_kinds()

    @cached_property
    def exceptions(self) -> Mapping[int, Reason]:
        """Why these jobs wait, by id."""
        return self._reasoning.of_jobs()

    def jobs_of(self, kind: Kind) -> Iterator[int]:
        """The jobs of this kind that wait for what their kind does."""
        for line in self._planner.queue.by_kind[kind]:
            yield from (job.job_id for job in self._planner.turns.rest_of(line) if job.job_id not in self.exceptions)

    def reason_of(self, job: WaitingJob) -> Reason:
        """Why this job waits."""
        return self.exceptions.get(job.job_id) or self.reasons[kind_of(job)]

    @cached_property
    def waits(self) -> Sequence[Wait]:
        """Every job that waits, with its reason. Jobs with one reason are together."""
        by_reason: dict[int, Wait] = {}
        for kind, reason in self.reasons.items():
            job_ids = by_reason.setdefault(id(reason), Wait(reason, [])).job_ids
            job_ids.extend(self.jobs_of(kind))
        return [*by_reason.values(), *(Wait(reason, [job_id]) for job_id, reason in self.exceptions.items())]

    def waiting(self, at_most: int | None = None) -> list[WaitingJob]:
        """The jobs that wait, in the order of their turns, or the first of them."""
        return list(islice(self._planner.waiting(), at_most))
