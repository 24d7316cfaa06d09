"""What runs, as the planner reads it: by where it runs, with what is known of its end beside what is not.

A plan asks of a cluster's jobs when they end, and of all jobs which ones must go; so its cost follows how many of them
say how long they run, not how many run.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

from jobs.placement.shapes import RunningJob

_ByPool = dict[tuple[int, str], dict[int, RunningJob]]


class Running(Collection[RunningJob]):
    """The jobs that run, in no order of their own."""

    def __init__(self, jobs: Iterable[RunningJob] = ()) -> None:
        self.jobs: dict[int, RunningJob] = {}
        # Those that must give their GPUs back, by id.
        self.noticed: dict[int, RunningJob] = {}
        self._lasting: _ByPool = defaultdict(dict)
        self._ending: _ByPool = defaultdict(dict)
        for job in jobs:
            self.put(job)

    def __iter__(self) -> Iterator[RunningJob]:
        return iter(self.jobs.values())

    def __len__(self) -> int:
        return len(self.jobs)

    def __contains__(self, job: object) -> bool:
        return isinstance(job, RunningJob) and self.jobs.get(job.job_id) == job

    def put(self, job: RunningJob) -> None:
        """The job runs, and this is what is known of it now."""
        self.remove(job.job_id)
        self.jobs[job.job_id] = job
        if job.preempt_at is not None:
            self.noticed[job.job_id] = job
        if job.preempt_for is None:
            self._pools_of(job)[job.cluster_id, job.model][job.job_id] = job

    def remove(self, job_id: int) -> RunningJob | None:
        """The job runs no more; None when it did not."""
        job = self.jobs.pop(job_id, None)
        if job is not None:
            self.noticed.pop(job_id, None)
            self._pools_of(job)[job.cluster_id, job.model].pop(job_id, None)
        return job

    def ending(self, cluster_id: int, model: str) -> Collection[RunningJob]:
        """Those of the cluster's model that say when they end, and that nobody is preempted for."""
        return self._ending.get((cluster_id, model), _NOBODY).values()

    def lasting(self, cluster_id: int, model: str) -> Collection[RunningJob]:
        """Those of the cluster's model of whose end nobody knows."""
        return self._lasting.get((cluster_id, model), _NOBODY).values()

    def _pools_of(self, job: RunningJob) -> _ByPool:
        return self._lasting if job.minutes is None and job.preempt_at is None else self._ending


_NOBODY: Mapping[int, RunningJob] = {}


def running_of(jobs: Collection[RunningJob]) -> Running:
    """The jobs as what runs, which they may be already."""
    return jobs if isinstance(jobs, Running) else Running(jobs)
