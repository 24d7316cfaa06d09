"""The processes of ``make up``: started in order, watched, and stopped in reverse. They die with this process."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gpufleet.embedded import die_with_parent, stop

ROOT = Path(__file__).resolve().parent.parent
LOG_LINES_SHOWN = 20
READY_WITHIN_SECONDS = 90
LARGEST_LOG_BYTES = 32 * 1024 * 1024


class UpError(Exception):
    """The system could not be started or went down; the message says why and what to do."""


@dataclass(slots=True)
class Child:
    """A supervised process, how it is asked to stop, and where it logs."""

    name: str
    process: subprocess.Popen[bytes]
    stop_signal: int
    log: Path


class System:
    """What is up, in the order in which it was started."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.logs = state / "logs"
        self.children: list[Child] = []
        self.environment = dict(os.environ)
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """A line of progress, with the seconds since the start."""
        print(f"[{time.monotonic() - self.began:5.1f} s] {text}", flush=True)

    def open_log(self, name: str) -> tuple[Path, IO[bytes]]:
        """A child's log; the one of the start before is kept beside it."""
        path = self.logs / f"{name}.log"
        if path.exists():
            path.replace(_older(path))
        return path, path.open("ab")  # Appending: a child goes on at the end after the log was cut.

    def adopt(self, name: str, process: subprocess.Popen[bytes], stop_signal: int, log: Path) -> None:
        """Watch a process that somebody else has started, and stop it in its turn."""
        self.children.append(Child(name, process, stop_signal, log))

    def launch(self, name: str, *command: str) -> None:
        """Start a process of ours that dies with us."""
        path, log = self.open_log(name)
        with log:
            process = self._spawn(command, log, log)
        self.adopt(name, process, signal.SIGTERM, path)

    def run(self, what: str, *command: str) -> None:
        """Run a command to its end and show what it says. Raises ``UpError`` with the last of what it logged."""
        path, log = self.open_log(what)
        with log, self._spawn(command, subprocess.PIPE, log) as process:
            try:
                for line in process.stdout or []:
                    self.say(line.decode(errors="replace").rstrip())
            except BaseException:  # We are told to stop.
                process.terminate()
                raise
        if process.returncode:
            raise UpError("\n".join([f"{what} failed with code {process.returncode}:", *last_lines(path)]))

    def _spawn(self, command: Sequence[str], output: IO[bytes] | int, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        """A process that dies with us, and leads a group of its own, so that Ctrl-C reaches us alone."""
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )

    def check_children(self) -> None:
        """Raise ``UpError`` with the last lines of its log when a child has died."""
        for child in self.children:
            code = child.process.poll()
            if code is not None:
                said = f"{child.name} stopped with code {code}; the end of {child.log}:"
                raise UpError("\n".join([said, *last_lines(child.log)]))

    def bound_logs(self) -> None:
        """Put a log that has grown large aside, in the place of the one before it."""
        for child in self.children:
            if child.log.stat().st_size > LARGEST_LOG_BYTES:
                shutil.copyfile(child.log, _older(child.log))
                os.truncate(child.log, 0)

    def wait_for(self, what: str, ready: Callable[[], bool]) -> None:
        """Poll until it is ready. Raises ``UpError`` when it takes too long or a child dies meanwhile."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while not ready():
            self.check_children()
            if time.monotonic() > deadline:
                raise UpError(f"{what} did not answer within {READY_WITHIN_SECONDS} s; see {self.logs}.")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop everything in reverse order, and whatever a child of ours left running."""
        for child in reversed(self.children):
            stop(child.process, child.stop_signal, seconds=15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)  # Each leads a group of its own.
            self.say(f"{child.name} stopped")


def last_lines(log: Path) -> list[str]:
    """The end of a log, for people."""
    return log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]


def _older(log: Path) -> Path:
    return log.with_suffix(".log.1")
