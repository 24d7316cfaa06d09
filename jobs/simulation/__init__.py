"""The very same ``plan``, run forward: a discrete-event simulation on snapshots. Pure: plain objects in and out.

Time goes from event to event. An event is the end of a job or a submission; after each, ``plan`` is asked and what it
starts is started. A job ends when its own estimate says; without one, after the time that ``lengths`` gives it; and
where nobody knows, never. Nothing breaks, nobody cancels, and only what the snapshot holds is submitted.
"""

from jobs.simulation.changes import FIRST_ID, Addition, Changes, changed
from jobs.simulation.engine import simulate
from jobs.simulation.figures import Waits, held_by, seconds_held, stranded_share, summary, waits_of
from jobs.simulation.first_come import fifo
from jobs.simulation.shapes import Course, Holding, Length, Lengths, Policy, Source

__all__ = [
    "FIRST_ID",
    "Addition",
    "Changes",
    "Course",
    "Holding",
    "Length",
    "Lengths",
    "Policy",
    "Source",
    "Waits",
    "changed",
    "fifo",
    "held_by",
    "seconds_held",
    "simulate",
    "stranded_share",
    "summary",
    "waits_of",
]
