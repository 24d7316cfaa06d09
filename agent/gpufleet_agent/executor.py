"""Starts what the server assigns to this node, ends what it takes away, and reports both, whoever was killed between.

A run that the server no longer lists is to end: its job was cancelled, was preempted, or failed on another node. Only
an answer ends a run; while the server is away everything goes on.
"""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpufleet_agent.client import Client
from gpufleet_agent.runs import Run, Workload
from gpufleet_agent.schemas import Assignment, Assignments
from gpufleet_agent.transport import Busy, Refused, Unreachable

logger = logging.getLogger(__name__)

WAIT_S = 20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
WATCH_S = 0.3
NOT_FOUND, CONFLICT = 404, 409
# A shim that has not taken its run up by then is started again.
LAUNCH_PATIENCE_S = 30.0


class Executor:
    """``settle`` brings the node's runs to what the server wants; ``poll`` asks what that is."""

    def __init__(
        self,
        client: Client,
        workload: Workload,
        folder: Path,
        *,
        grace_s: float,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._client, self._workload, self._folder = client, workload, folder
        self._grace, self._clock = grace_s, clock
        self._rng = rng or random.Random()  # noqa: S311  (jitter, not a secret)
        self.node_id: int | None = None
        self._wanted: Assignments | None = None
        self._lock = threading.Lock()
        self._paused_until = 0.0
        self._failures = 0
        self._version: str | None = None
        self._refused: set[int] = set()
        self._told: dict[int, float] = {}

    def poll(self, stop: threading.Event) -> None:
        """Ask until told to stop."""
        while not stop.is_set():
            stop.wait(self.ask() if self.node_id is not None else FIRST_PAUSE_S)

    def ask(self) -> float:
        """Ask once, for as long as the server holds the question. Returns how long to wait before the next."""
        assert self.node_id is not None  # noqa: S101  (checked by the caller)
        try:
            wanted = self._client.assignments(self.node_id, version=self._version, wait=WAIT_S)
        except (Unreachable, Busy, Refused) as error:
            return self._pause(error)
        with self._lock:
            self._wanted, self._failures, self._version = wanted, 0, wanted["version"]
        return wanted["poll_after_s"] * self._rng.uniform(0.9, 1.1)

    def watch(self, stop: threading.Event) -> None:
        """Settle until told to stop. What runs then runs on: the next agent takes it up."""
        while not stop.is_set():
            self.settle()
            stop.wait(WATCH_S)

    def settle(self) -> None:
        """Start, end and report what is due now."""
        with self._lock:
            wanted = self._wanted
        runs = self._runs()
        for run in runs.values():
            self._each(run.run_id, self._look_after, run, wanted)
        if wanted is not None:
            busy = {slot for run in self._runs().values() if run.exit_code() is None for slot in run.slots}
            for assignment in wanted["runs"]:
                if assignment["run_id"] not in runs:
                    self._each(assignment["run_id"], self._take, assignment, wanted, busy)

    @staticmethod
    def _each(run_id: int, do: Callable[..., None], *args: Any) -> None:
        """A disk that is full, or a program that is not there, is one run's trouble and no other's."""
        try:
            do(*args)
        except OSError as error:
            logger.error("run %d can't be looked after: %s", run_id, error)

    def _runs(self) -> dict[int, Run]:
        found = {}
        for folder in self._folder.iterdir():
            run = Run(folder)
            if run.is_whole:
                found[run.run_id] = run
            else:
                run.forget()  # Nothing of it was started.
        return found

    def _take(self, assignment: Assignment, wanted: Assignments, busy: set[int]) -> None:
        """Start a run, unless its GPUs are still being cleared of the one before."""
        refusal = "" if wanted["accepts_new"] else "The node takes nothing new: it is being drained or in maintenance."
        refusal = refusal or self._workload.refusal(assignment)
        if refusal:
            self._refuse(assignment, refusal)
            return
        slots = {gpu["gpu_index"] for gpu in assignment["gpus"]}
        if not wanted["execution_enabled"] or slots & busy:
            return
        busy |= slots
        run = Run.begin(self._folder / str(assignment["run_id"]), assignment, self._workload)
        run.note(launched_at=self._clock())
        run.launch()
        logger.info("job %d starts as run %d", run.job_id, run.run_id)

    def _refuse(self, assignment: Assignment, why: str) -> None:
        """Give the job back, once the server hears it."""
        if assignment["run_id"] in self._refused:
            return
        report = {"job_id": assignment["job_id"], "run_id": assignment["run_id"], "state": "refused", "message": why}
        if self._report(report):
            self._refused.add(assignment["run_id"])
            logger.warning("job %d is given back: %s", assignment["job_id"], why)

    def _look_after(self, run: Run, wanted: Assignments | None) -> None:
        if run.recall("reported"):
            self._forget_when_gone(run, wanted)
            return
        alive = run.is_alive()
        code = run.exit_code()
        if code is None and not alive and not run.has_started():
            self._launch_again(run)
            return
        if run.has_started() and not run.recall("start_reported") and self._report(self._report_of(run, "started")):
            with contextlib.suppress(OSError):  # On a full disk it is told again, which changes nothing.
                run.note(start_reported=True)
        if code is not None or not alive:
            self._end(run, code)
        elif wanted is not None:
            self._end_where_unwanted(run, wanted)

    def _end(self, run: Run, code: int | None) -> None:
        if code is None:
            code = run.exit_code()  # It may have ended between the two looks.
        if not run.recall("cleared"):
            run.signal(signal.SIGKILL)
            self._workload.clear(run.run_id)
            run.note(cleared=True)
        message = "" if code is not None else "The run was lost: the node restarted, or its supervisor was killed."
        report = {**self._report_of(run, "exited"), "exit_code": code, "log_tail": run.tail(), "message": message}
        if self._report(report):
            run.note(reported=True)
            logger.info("run %d of job %d ended: %s", run.run_id, run.job_id, message or f"exit code {code}")

    def _end_where_unwanted(self, run: Run, wanted: Assignments) -> None:
        """SIGTERM when the server wants it ended, SIGKILL when its time is over."""
        listed = {one["run_id"]: one for one in wanted["runs"]}
        assignment = listed.get(run.run_id)
        if assignment is not None and assignment["stop_by"] is None:
            return
        now = self._clock()
        told_at = run.recall("told_at") or self._told.get(run.run_id)
        if told_at is None:
            logger.info("run %d of job %d is told to end", run.run_id, run.job_id)
            self._told[run.run_id] = now  # Its time runs out on a full disk too.
            run.terminate()
            run.note(told_at=now)
            return
        deadline = told_at + self._grace
        if assignment is not None and assignment["stop_by"] is not None:
            deadline = _seconds(assignment["stop_by"])
        if now >= deadline:
            run.signal(signal.SIGKILL)
            self._workload.clear(run.run_id)

    def _launch_again(self, run: Run) -> None:
        """The agent died before its shim was there, or the shim did."""
        if self._clock() - (run.recall("launched_at") or 0.0) > LAUNCH_PATIENCE_S or not run.recall("launched_at"):
            run.note(launched_at=self._clock())
            run.launch()

    def _forget_when_gone(self, run: Run, wanted: Assignments | None) -> None:
        """Its folder stays while the server still lists it, so that it is not taken for a new one."""
        if wanted is not None and run.run_id not in {one["run_id"] for one in wanted["runs"]}:
            run.forget()
            self._told.pop(run.run_id, None)

    @staticmethod
    def _report_of(run: Run, state: str) -> dict[str, object]:
        return {"job_id": run.job_id, "run_id": run.run_id, "state": state}

    def _report(self, report: dict[str, object]) -> bool:
        """Whether the server has heard it, or does not want to. Says nothing while it waits after a failure."""
        if self.node_id is None or self._clock() < self._paused_until:
            return False
        try:
            self._client.report_run(self.node_id, report)
        except Refused as error:
            if error.status in (NOT_FOUND, CONFLICT):
                logger.warning("the server knows nothing of run %s: %s", report["run_id"], error)
                return True
            self._paused_until = self._clock() + self._pause(error)
            return False
        except (Unreachable, Busy) as error:
            self._paused_until = self._clock() + self._pause(error)
            return False
        return True

    def _pause(self, error: Exception) -> float:
        self._failures += 1
        asked = error.retry_after if isinstance(error, Busy) else None
        longest = min(FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE_S)
        pause = self._rng.uniform(longest / 2, longest) if asked is None else asked + self._rng.uniform(0, 1)
        logger.warning("%s; again in %.0f s", error, pause)
        return pause


def _seconds(instant: str) -> float:
    """Since the epoch. Python before 3.11 does not read the Z."""
    return datetime.fromisoformat(instant.replace("Z", "+00:00")).astimezone(timezone.utc).timestamp()
