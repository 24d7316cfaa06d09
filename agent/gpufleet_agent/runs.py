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
from gpufleet_agent.files import lock_file, read_json, write_json, write_whole
from gpufleet_agent.schemas import Assignment

logger = logging.getLogger(__name__)

TAIL_BYTES = 16 * 2**10
TAIL_LINES = 200
MASTER_PORT = "29500"
MODES = ("process", "docker", "none")
STATE = "state.json"
SHIM = ["-m", "gpufleet_agent.shim"]
REMOVE_TIMEOUT_S = 30
ENV_FILE = "env"
# What docker's client and the linker read themselves: the operator's, never a job's.
CLIENTS_OWN = ("PATH", "HOME", "TMPDIR", "DOCKER_", "XDG_", "LD_")


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
        if self.mode == "docker":
            beyond = [name for name in _beside_the_file(assignment["env"]) if name.upper().startswith(CLIENTS_OWN)]
            if beyond:
                return f"Docker's file of variables takes no line break in {beyond[0][:100]}."
        return ""

    def order(self, assignment: Assignment, folder: Path) -> dict[str, Any]:
        """What the shim is to start: an argument list and the whole environment, never a shell's string.

        ``files``: what is to be in the run's folder then, by name.
        """
        env = environment_of(assignment)
        own = {"PATH": os.environ.get("PATH", os.defpath)}
        if self.mode == "docker":
            return self._docker_order(assignment, env, own, folder)
        cwd = self._home if Path(self._home).is_dir() else "/"
        return {
            "argv": assignment["command"],
            "env": {"LANG": "C.UTF-8", "HOME": self._home, **own, **env},
            "cwd": cwd,
            **(self._account or {}),
        }

    def clear(self, run_id: int) -> None:
        """End what a signal to the shim's command does not reach: a container is the daemon's child, and may outlive
        the client that started it."""
        if self.mode != "docker":
            return
        command = [self.docker, "rm", "--force", _container(run_id)]
        try:
            subprocess.run(command, check=False, capture_output=True, timeout=REMOVE_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.error("the container of run %d may be left: %s", run_id, error)

    def _docker_order(
        self, assignment: Assignment, env: dict[str, str], own: dict[str, str], folder: Path
    ) -> dict[str, Any]:
        """The values go into a file, so that no ``ps`` shows them and none is docker's own; those that the file can't
        hold are taken from the client's environment."""
        del env["CUDA_VISIBLE_DEVICES"]  # In the container its GPUs are all that there are.
        devices = ",".join(gpu["uuid"] or str(gpu["gpu_index"]) for gpu in assignment["gpus"])
        user = ["--user", f"{self._account['run_as']}:{self._account['run_as_group']}"] if self._account else []
        container = ["--rm", "--init", "--name", _container(assignment["run_id"]), "--network", "host", *user]
        gpus = ["--gpus", f'"device={devices}"']  # Docker reads it as CSV, so that commas need the quotes.
        beside = _beside_the_file(env)
        variables = ["--env-file", str(folder / ENV_FILE), *(part for name in beside for part in ("--env", name))]
        # After the two dashes nothing is an option, whatever an image calls itself.
        what = ["--", assignment["image"], *(assignment["command"] or [])]
        clients = {name: value for name, value in os.environ.items() if name.startswith(("DOCKER_", "XDG_"))}
        lines = "".join(f"{name}={value}\n" for name, value in env.items() if name not in beside)
        return {
            "argv": [self.docker, "run", *container, *gpus, *variables, *what],
            "env": {"HOME": os.environ.get("HOME", "/"), **own, **clients, **beside},
            "cwd": "/",
            "files": {ENV_FILE: lines},
        }


class Run:
    """One run. Whatever is known of it is in its folder, so that another agent process can go on with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state: dict[str, Any] = read_json(folder / STATE)

    @classmethod
    def begin(cls, folder: Path, assignment: Assignment, workload: Workload) -> Run:
        """Write down a run that is to be started; ``launch`` starts it."""
        folder.mkdir(parents=True, mode=0o700)
        order = workload.order(assignment, folder)
        for name, text in order.pop("files", {}).items():
            write_whole(folder / name, text.encode())
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
                [sys.executable, *SHIM, str(self.folder)],
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


def _beside_the_file(env: dict[str, str]) -> dict[str, str]:
    """The variables that docker's file of them, which knows no quotes, can't hold."""
    return {
        name: value
        for name, value in env.items()
        if name.startswith("#") or any(sign.isspace() for sign in name) or "\n" in value or "\r" in value
    }


def _container(run_id: int) -> str:
    return f"gpufleet-run-{run_id}"


def _end_of(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - most, 0))
            return file.read(most)
    except FileNotFoundError:
        return b""
