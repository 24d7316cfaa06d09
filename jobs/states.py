"""The life of a job: which status may follow which, and who may say so. Pure."""

from collections.abc import Mapping

QUEUED, BLOCKED, RUNNING = "queued", "blocked", "running"
COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"

WAITING = frozenset({QUEUED, BLOCKED})
ENDED = frozenset({COMPLETED, FAILED, CANCELLED})

# What a client, an agent or an operator may ask for. Only the scheduler starts a job (queued → running), and it may
# cancel or fail one whose hardware is gone.
MOVES: Mapping[str, tuple[str, ...]] = {
    QUEUED: (BLOCKED, CANCELLED),
    BLOCKED: (QUEUED, CANCELLED),
    RUNNING: (COMPLETED, FAILED, CANCELLED),
    COMPLETED: (),
    FAILED: (),
    CANCELLED: (),
}


def legal_moves(status: str) -> tuple[str, ...]:
    """The statuses that may be asked for next. Raises ``KeyError`` for a status that is none."""
    return MOVES[status]
