"""The life of a job: which status may follow which, and who may say so. Pure.

The scheduler alone starts a job. It also cancels what waits for hardware that is gone, and fails or requeues what lost
its own.
"""

from collections.abc import Mapping

QUEUED, BLOCKED, RUNNING = "queued", "blocked", "running"
COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"

WAITING = frozenset({QUEUED, BLOCKED})
ENDED = frozenset({COMPLETED, FAILED, CANCELLED})

# What a client, an agent or an operator may ask for.
MOVES: Mapping[str, tuple[str, ...]] = {
    QUEUED: (BLOCKED, CANCELLED),
    BLOCKED: (QUEUED, CANCELLED),
    RUNNING: (QUEUED, COMPLETED, FAILED, CANCELLED),  # Queued again: it gives its GPUs back and waits anew.
    COMPLETED: (),
    FAILED: (),
    CANCELLED: (),
}

# What the scheduler does of its own accord.
SCHEDULER_MOVES: Mapping[str, tuple[str, ...]] = {
    QUEUED: (RUNNING, CANCELLED),
    BLOCKED: (CANCELLED,),
    RUNNING: (QUEUED, FAILED),
    COMPLETED: (),
    FAILED: (),
    CANCELLED: (),
}


def legal_moves(status: str) -> tuple[str, ...]:
    """The statuses that may be asked for next. Raises ``KeyError`` for a status that is none."""
    return MOVES[status]


def scheduler_sources(target: str) -> tuple[str, ...]:
    """The statuses out of which the scheduler may move a job to ``target``."""
    return tuple(status for status, targets in SCHEDULER_MOVES.items() if target in targets)
