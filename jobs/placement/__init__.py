"""Which waiting job gets which GPUs now, and why the others wait. Pure: plain objects in, a plan out.

The policy, in this order:

1. a job that has waited for a day for each step of its priority (one day at priority 1, five at 5) is *aged*: aged jobs
   go before everything, in the order in which they aged;
2. strict priority, 1 before 10;
3. within a priority, fair share: the tenant that holds the smaller part of its quota goes first, counting what this
   plan has already given it;
4. then age.

A job gets all of its GPUs at once or none (gang scheduling), all of one model. A job that fits on one node of that
model gets one node, the one where the fewest GPUs stay free (tightest fit); a larger one gets the fewest nodes.

The first job of a cluster that can't start for want of hardware holds a reservation (EASY backfill): the GPUs that it
will have first, by the estimates of what runs. Those behind it may start on other GPUs, on what is spare beside the
reservation, or anywhere if by their own estimate they end before it. What runs without an estimate has no known end;
only an aged job keeps GPUs free for longer than is known. An aged job that waits for its tenant's quota lets no younger
job of that tenant pass. So no job starves: once aged, only what aged before it goes ahead, and what it needs is kept.

``gpu_type`` is a list of preferences, ``A|B``; empty means any model. Of models that are equally welcome those come
first that have a node large enough for the whole job, and then the one with the most free GPUs. An entry matches a
model that is equal to it or begins with it at a word's end, whatever the case, with or without the vendor's name in
front: ``A100`` matches ``NVIDIA A100-SXM4-80GB``, and ``A10`` does not.

Where a cluster allows it, a job that finds no GPUs preempts others (see ``preempting``), and what tenants leave idle of
their quota is lent to others (see ``quotas``). A node on which everything fails rests for a while (see ``resting``).

A reason says how things stand after the plan. A plan made anew of what this one leaves starts nothing and gives every
job the same reason while nobody holds a reservation, so that a queue in which nothing happens costs no writes.
"""

from jobs.placement.matching import matches, preferences, takes
from jobs.placement.plans import Plan, plan
from jobs.placement.queue import Kind, Queue, Wish, kind_of
from jobs.placement.running import Running
from jobs.placement.shapes import (
    NodeView,
    Preempting,
    Preemption,
    Reason,
    Reservation,
    RunningJob,
    Snapshot,
    Start,
    TenantView,
    Wait,
    WaitCode,
    WaitingJob,
    sentence,
)

__all__ = [
    "Kind",
    "NodeView",
    "Plan",
    "Preempting",
    "Preemption",
    "Queue",
    "Reason",
    "Reservation",
    "Running",
    "RunningJob",
    "Snapshot",
    "Start",
    "TenantView",
    "Wait",
    "WaitCode",
    "WaitingJob",
    "Wish",
    "kind_of",
    "matches",
    "plan",
    "preferences",
    "sentence",
    "takes",
]
