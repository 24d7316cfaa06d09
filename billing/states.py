"""Which states bill. Pure: the one table, which ``billing/tests/test_states.py`` holds the house to.

What bills is an allocation: a GPU held by a tenant's job, from its start to its end, at the price locked in then.
"""

from collections.abc import Mapping
from typing import Final

# While a job is in this status, does it hold GPUs, and so bill?
JOB_STATUS_BILLS: Final[Mapping[str, bool]] = {
    "queued": False,
    "blocked": False,
    "running": True,
    "completed": False,
    "failed": False,
    "cancelled": False,
}

# While a GPU that a job holds is in this state, do its seconds bill? A fault under a job is sold time, which a
# service-level rule gives back; a GPU that is offline is held by nobody from its node's last heartbeat on.
GPU_STATE_BILLS: Final[Mapping[str, bool]] = {
    "available": True,
    "draining": True,
    "maintenance": True,
    "unhealthy": True,
    "offline": False,
}
