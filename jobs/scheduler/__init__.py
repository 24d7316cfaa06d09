"""The scheduler: whose turn it is, and what one cycle does. Nobody needs more than these names."""

from jobs.scheduler.cycle import CycleResult, run_cycle
from jobs.scheduler.turns import turn

__all__ = ["CycleResult", "run_cycle", "turn"]
