"""Runs one command, beside the agent and not under it, so that the agent may die and come back.

``python -m gpufleet_agent.shim FOLDER`` reads ``order.json`` there, holds a lock on ``shim.lock`` for as long as it
lives, writes ``started.json`` (once: a second shim for the same folder leaves quietly), keeps the end of what the
command says in ``log`` and ``log.1``, and leaves ``exit.json`` when the command has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from gpufleet_agent.files import lock_file, read_json, write_json

LOCK, ORDER, STARTED, EXIT, LOG, OLDER_LOG = "shim.lock", "order.json", "started.json", "exit.json", "log", "log.1"
# Two files of this size at most, however much the command says.
LOG_BYTES = 4 * 2**20
CHUNK = 64 * 2**10
# What a command leaves running behind it may say its last words for this long.
LAST_WORDS_S = 2.0
NOT_FOUND, NOT_STARTED = 127, 126
LOCK_ATTEMPTS, LOCK_PAUSE_S = 20, 0.05
DISK_PAUSE_S = 1.0


def main(folder: Path) -> None:
    """Run the order in the folder, once."""
    lock = _lock(folder / LOCK)
    if lock is None or (folder / STARTED).exists():
        return
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _go_on)  # Not SIG_IGN, which the command would inherit.
    order = read_json(folder / ORDER)
    write_json(folder / STARTED, {"at": time.time()})
    try:
        process = _launch(order)
    except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_STARTED
        with contextlib.suppress(OSError):
            (folder / LOG).write_text(f"gpufleet-agent: the command could not be started: {error}\n")
        _write_patiently(folder / EXIT, {"code": code, "at": time.time()})
        return
    _write_patiently(folder / STARTED, {"at": time.time(), "pid": process.pid, "born": born_at(process.pid)})
    code = _watch(process, folder)
    _write_patiently(folder / EXIT, {"code": code, "at": time.time()})


def _go_on(number: int, frame: object) -> None:
    """It ends when its command does."""


def _write_patiently(path: Path, value: dict[str, Any]) -> None:
    """Without these files a command that runs can't be ended, and one that has ended was lost: a disk that is full
    delays them."""
    while True:
        try:
            return write_json(path, value)
        except OSError:
            time.sleep(DISK_PAUSE_S)


def _lock(path: Path) -> int | None:
    """An agent that looks whether we live has the lock for a moment; another shim has it for good."""
    for _ in range(LOCK_ATTEMPTS):
        lock = lock_file(path)
        if lock is not None:
            return lock
        time.sleep(LOCK_PAUSE_S)
    return None


def born_at(pid: int) -> str:
    """When the process began, in the kernel's ticks since boot; empty where there is none. With its pid it names a
    process for good, since pids come again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19]


def signal_group(pid: int, born: str, number: int) -> None:
    """Signal a command and what it started, if it is still the one that we know."""
    if born and born_at(pid) == born:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)


def _launch(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    """The command in a session of its own, as the account that the order names. Raises what ``Popen`` does."""
    account: dict[str, Any] = {}
    if order.get("run_as"):
        account = {"user": order["run_as"], "group": order["run_as_group"], "extra_groups": []}
    return subprocess.Popen(
        order["argv"],
        env=order["env"],
        cwd=order["cwd"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **account,
    )


def _watch(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Keep what it says, wait for its end, and end what it left behind: its GPUs are somebody else's from then on."""
    assert process.stdout is not None  # noqa: S101  (it was asked for)
    pump = threading.Thread(target=_keep, args=(process.stdout, folder), daemon=True)
    pump.start()
    # Not reaped yet, so that its pid, which is its group's too, is nobody else's while we signal it.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    pump.join(LAST_WORDS_S)
    return code


def _keep(stream: IO[bytes], folder: Path) -> None:
    """A disk that is full costs lines; a pipe that nobody reads would stop the command."""
    log: IO[bytes] | None = None
    while True:
        chunk = os.read(stream.fileno(), CHUNK)
        if not chunk:
            return
        try:
            log = log or (folder / LOG).open("ab", buffering=0)
            log.write(chunk)
            if log.tell() >= LOG_BYTES:
                log.close()
                log = None
                os.replace(folder / LOG, folder / OLDER_LOG)
        except OSError:
            log = None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
