"""How fast the queue is run forward: ``python -m benchmarks.bench_simulation``.

10,000 GPUs of four clusters and 100,000 queued jobs of fifty tenants, many of them aged, with estimates from ten
minutes to ten hours; from the idle fleet on, for so many seconds of the wall clock. The last line is JSON.
"""

import json
import random
import time
from dataclasses import replace
from datetime import timedelta

from benchmarks.bench_placement import NOON, synthetic
from jobs.placement import RunningJob, plan
from jobs.simulation import Length, Source, simulate

SECONDS = 30
HOURS_LATER = 30


def by_estimate(job: RunningJob) -> Length:
    """Every job of this world has one."""
    return Length(timedelta(minutes=job.minutes or 0), Source.ESTIMATE)


def main() -> None:
    """Run it forward for ``SECONDS``, beside one plan of the whole queue."""
    chance = random.Random(1)
    world = synthetic(10_000, 100_000, quota=10_000)
    world = replace(world, jobs=[replace(job, minutes=chance.randint(10, 600)) for job in world.jobs])
    now = NOON + timedelta(hours=HOURS_LATER)
    began = time.monotonic()
    plan(world, now)
    one_plan_s = time.monotonic() - began
    began = time.monotonic()
    course = simulate(
        world,
        now,
        lengths=by_estimate,
        until=now + timedelta(hours=24),
        seconds=SECONDS,
        coalesce=timedelta(seconds=30),
    )
    took_s = time.monotonic() - began
    figures = {
        "plan_of_the_whole_queue_s": round(one_plan_s, 3),
        "plans": course.plans,
        "plan_in_the_course_s": round(took_s / course.plans, 3),
        "simulated_hours": round((course.until - now) / timedelta(hours=1), 2),
        "wall_s": round(took_s, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
