"""The scheduler: whose turn it is, what one cycle does, and why. Nobody needs more than these names."""

from jobs.scheduler.cycle import CycleResult, run_cycle, run_cycle_of_process
from jobs.scheduler.explaining import Explanation, explain_job
from jobs.scheduler.turns import turn

__all__ = ["CycleResult", "Explanation", "explain_job", "run_cycle", "run_cycle_of_process", "turn"]
