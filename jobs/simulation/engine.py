"""The loop: plan, start, go on to what happens next."""

import time
from dataclasses import replace
from datetime import datetime, timedelta

from jobs.placement import Plan, Snapshot, plan
from jobs.simulation.contenders import Queue
from jobs.simulation.shapes import Course, Lengths, Policy
from jobs.simulation.world import World


def simulate(
    snapshot: Snapshot,
    now: datetime,
    *,
    lengths: Lengths,
    until: datetime,
    seconds: float | None = None,
    coalesce: timedelta = timedelta(0),
    policy: Policy | None = None,
    asked: int | None = None,
) -> Course:
    """Live through the snapshot's future, from ``now`` to ``until``, or for so many ``seconds`` of the wall clock.

    A job of the snapshot that is submitted later comes then. What happens within ``coalesce`` of an event is looked at
    in one plan, at the last of it. ``policy`` decides instead of ``plan``, and sees the whole queue each time.
    ``asked`` is a job that must be explained if it still waits at the end.
    """
    began = time.monotonic()
    world, plans, cut = World(snapshot, now, lengths), 0, False
    while not cut:
        if world.queue.size:
            plans += 1
            for start in _decide(world, policy).starts:
                world.start(start)
        event = world.next_event()
        if event is None or event > until:
            break
        cut = seconds is not None and time.monotonic() - began > seconds
        if not cut:
            world.pass_to(min(event + coalesce, until))
    reached = event if cut and event is not None else until
    return Course(now, reached, cut, plans, world.holdings, world.submitted, _why(asked, world))


def _why(job_id: int | None, world: World) -> str:
    jobs = world.queue.jobs()
    if job_id not in {job.job_id for job in jobs}:
        return ""
    waits = plan(replace(world.view(), jobs=jobs), world.now).waits
    return next((wait.reason.sentence for wait in waits if job_id in wait.job_ids), "")


def _decide(world: World, policy: Policy | None) -> Plan:
    view = world.view()
    if policy is not None:
        return policy(replace(view, jobs=world.queue.jobs()), world.now)
    return plan_of_queue(world.queue, view, world.now)


def plan_of_queue(queue: Queue, view: Snapshot, now: datetime) -> Plan:
    """The starts and reservations that ``plan`` decides on for the whole queue, by asking it about the contenders."""
    jobs = {job.job_id: job for job in queue.contenders(view, now)}
    decided = plan(replace(view, jobs=list(jobs.values())), now)
    while True:
        fillers = {job.job_id: job for job in queue.fillers(view, now, decided)}
        if fillers.keys() <= jobs.keys():
            return decided
        jobs |= fillers
        decided = plan(replace(view, jobs=list(jobs.values())), now)
