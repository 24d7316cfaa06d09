"""Runs of jobs on this node, each a folder: what was ordered, whether it lives, how it ended, what it said last."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpufleet_agent import shim
from gpufleet_agent.files import lock_file, read_json, write_json
from gpufleet_agent.schemas import Assignment

logger = logging.getLogger(__name__)

TAIL_BYTES = 16 * 2**10
TAIL_LINES = 200
MASTER_PORT = "29500"
MODES = ("process", "docker", "none")
STATE = "state.json"
KILL_TIMEOUT_S = 30


class Workload:
    """How this node runs what it is given: as processes or in containers, and as whom."""

    def __init__(self, mode: str, *, run_as: str = "", docker: str = "docker") -> None:
        if mode not in MODES:
            raise ValueError(f"{mode!r} is none of {', '.join(MODES)}.")
        self.mode, self.docker = mode, docker
        account = pwd.getpwnam(run_as) if run_as else None
        self._account = None if account is None else {"run_as": account.pw_uid, "run_as_group": account.pw_gid}
        self._home = account.pw_dir if account else "/"

    def refusal(self, assignment: Assignment) -> str:
        """Why this node can't run that; empty: it can."""
        if self.mode == "none":
            return "This node executes nothing."
        if self.mode == "process" and assignment["image"]:
            return "This node runs commands and no images: its agent is started with --execute process."
        if self.mode == "docker" and not assignment["image"]:
            return "This node runs images alone: its agent is started with --execute docker."
        return ""

    def order(self, assignment: Assignment) -> dict[str, Any]:
        """What the shim is to start: an argument list and the whole environment, never a shell's string."""
        env = environment_of(assignment)
        base = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": self._home}
        if self.mode == "docker":
            return {"argv": self._docker_argv(assignment, env), "env": {**base, **_own_path(), **env}, "cwd": "/"}
        cwd = self._home if Path(self._home).is_dir() else "/"
        return {
            "argv": assignment["command"],
            "env": {**base, **_own_path(), **env},
            "cwd": cwd,
            **(self._account or {}),
        }

    def kill(self, run_id: int) -> None:
        """End what a signal to the shim's command does not reach: a container is the daemon's child."""
        if self.mode == "docker":
            subprocess.run(
                [self.docker, "kill", _container(run_id)], check=False, capture_output=True, timeout=KILL_TIMEOUT_S
            )

    def _docker_argv(self, assignment: Assignment, env: dict[str, str]) -> list[str]:
        """``docker run`` takes the values from its own environment, so that no ``ps`` shows them."""
        devices = ",".join(gpu["uuid"] or str(gpu["gpu_index"]) for gpu in assignment["gpus"])
        names = [part for name in sorted(env) if name != "CUDA_VISIBLE_DEVICES" for part in ("--env", name)]
        user = ["--user", f"{self._account['run_as']}:{self._account['run_as_group']}"] if self._account else []
        container = ["--rm", "--init", "--name", _container(assignment["run_id"]), "--network", "host", *user]
        gpus = ["--gpus", f'"device={devices}"']  # Docker reads it as CSV, so that commas need the quotes.
        return [self.docker, "run", *container, *gpus, *names, assignment["image"], *(assignment["command"] or [])]


class Run:
    """One run. Whatever is known of it is in its folder, so that another agent process can go on with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state: dict[str, Any] = read_json(folder / STATE)

    @classmethod
    def begin(cls, folder: Path, assignment: Assignment, order: dict[str, Any]) -> Run:
        """Write down a run that is to be started; ``launch`` starts it."""
        folder.mkdir(parents=True, mode=0o700)
        write_json(folder / shim.ORDER, order)
        run = cls(folder)
        run.note(
            run_id=assignment["run_id"],
            job_id=assignment["job_id"],
            slots=[gpu["gpu_index"] for gpu in assignment["gpus"]],
        )
        return run

    @property
    def run_id(self) -> int:
        """The server's name for it."""
        return int(self._state["run_id"])

    @property
    def job_id(self) -> int:
        """Its job."""
        return int(self._state["job_id"])

    @property
    def slots(self) -> set[int]:
        """The GPUs that it uses."""
        return set(self._state["slots"])

    @property
    def is_whole(self) -> bool:
        """Whether it was written down to the end; if not, nothing was started."""
        return "run_id" in self._state

    def recall(self, name: str) -> Any:
        """What ``note`` put there, or None."""
        return self._state.get(name)

    def note(self, **facts: Any) -> None:
        """Keep facts of it, over a restart too."""
        self._state.update(facts)
        write_json(self.folder / STATE, self._state)

    def launch(self) -> None:
        """Start its shim; one that has started already is not doubled."""
        with (self.folder / "shim.err").open("ab") as errors:
            subprocess.Popen(
                [sys.executable, "-m", "gpufleet_agent.shim", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            )

    def has_started(self) -> bool:
        """Whether its shim has taken it up."""
        return (self.folder / shim.STARTED).exists()

    def exit_code(self) -> int | None:
        """Its command's, negative for a signal; None while it runs, or where nobody saw it end."""
        code = read_json(self.folder / shim.EXIT).get("code")
        return code if isinstance(code, int) else None

    def is_alive(self) -> bool:
        """Whether its shim lives."""
        lock = lock_file(self.folder / shim.LOCK)
        if lock is None:
            return True
        os.close(lock)
        return False

    def signal(self, number: int) -> None:
        """Signal its command and what that started."""
        started = read_json(self.folder / shim.STARTED)
        if "pid" in started:
            shim.signal_group(started["pid"], started["born"], number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.signal(signal.SIGTERM)

    def tail(self) -> str:
        """The last lines of what it said, as text."""
        data = b""
        for name in (shim.LOG, shim.OLDER_LOG):
            data = _end_of(self.folder / name, TAIL_BYTES - len(data)) + data
        text = data.decode(errors="replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def forget(self) -> None:
        """Remove its folder: the server knows how it ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def environment_of(assignment: Assignment) -> dict[str, str]:
    """The job's own variables, and ours over them: which GPUs are its, and which part of a gang it is.

    ``RANK`` and ``WORLD_SIZE`` count nodes: a run is one command a node.
    """
    uuids = [gpu["uuid"] for gpu in assignment["gpus"]]
    visible = uuids if all(uuids) else [str(gpu["gpu_index"]) for gpu in assignment["gpus"]]
    return {
        "MASTER_PORT": MASTER_PORT,
        **assignment["env"],
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(visible),
        "GPUFLEET_JOB_ID": str(assignment["job_id"]),
        "GPUFLEET_GPU_COUNT": str(len(uuids)),
        "RANK": str(assignment["rank"]),
        "WORLD_SIZE": str(assignment["world_size"]),
        "MASTER_ADDR": assignment["master_addr"],
    }


def _own_path() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]} if "PATH" in os.environ else {}


def _container(run_id: int) -> str:
    return f"gpufleet-run-{run_id}"


def _end_of(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - most, 0))
            return file.read(most)
    except FileNotFoundError:
        return b""
