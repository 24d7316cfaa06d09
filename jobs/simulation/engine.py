"""The loop: plan, start, go on to what happens next."""

import time
from datetime import datetime, timedelta

from jobs.placement import Snapshot, plan
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
        if world.queue:
            plans += 1
            _decide(world, policy)
        event = world.next_event()
        if event is None or event > until:
            break
        cut = seconds is not None and time.monotonic() - began > seconds
        if not cut:
            world.pass_to(min(event + coalesce, until))
    reached = event if cut and event is not None else until
    return Course(now, reached, cut, plans, world.holdings, world.submitted, _why(asked, world))


def _why(job_id: int | None, world: World) -> str:
    job = None if job_id is None else world.queue.jobs.get(job_id)
    return "" if job is None else plan(world.view(), world.now).reason_of(job).sentence


def _decide(world: World, policy: Policy | None) -> None:
    if policy is not None:
        starts = policy(world.view(), world.now)
    else:
        decided = plan(world.view(), world.now)
        starts = decided.starts
        world.preempt(decided)
    for start in starts:
        world.start(start)
