"""Makes a virtual environment of a requirements file: ``python3 -m gpufleet.install .venv requirements.txt``.

Runs under whatever Python 3.11+ there is, with the standard library alone. A stamp in the environment names what was
installed, so that a second run asks no registry and takes no time.
"""

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST = (3, 11)
STAMP = "installed"
PIP_LINES_SHOWN = 20


class InstallError(Exception):
    """The environment could not be made; the message says why and what to do."""


def main(arguments: list[str]) -> int:
    """Make or renew the environment that the first argument names. Returns the exit code."""
    folder, requirements = Path(arguments[0]).absolute(), Path(arguments[1]).absolute()
    try:
        ensure(folder, requirements)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def ensure(folder: Path, requirements: Path) -> None:
    """Have the environment hold what the file pins. Raises ``InstallError``."""
    _check_python()
    with _alone(folder.parent):
        if not _is_stamped(folder, requirements):
            (folder / STAMP).unlink(missing_ok=True)
            _make(folder)
            _install(folder, requirements)
            (folder / STAMP).write_text(_stamp(folder, requirements))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for another `make` in this folder: two at once would spoil each other's environment."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fingerprint(requirements: Path) -> str:
    """A digest of a requirements file and of those that it includes."""
    digest = hashlib.sha256()
    for file in _with_includes(requirements):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _with_includes(requirements: Path) -> Iterator[Path]:
    yield requirements
    for line in requirements.read_text().splitlines():
        if line.startswith("-r "):
            yield from _with_includes(requirements.parent / line.removeprefix("-r ").strip())


def _check_python() -> None:
    if sys.version_info < OLDEST:
        raise InstallError(f"{sys.executable} is Python {sys.version.split()[0]}; gpufleet needs 3.11 or newer.")
    try:
        import ensurepip
        import venv
    except ImportError as error:
        raise InstallError(
            f"{sys.executable} can't make virtual environments: it lacks {error.name}. On Debian and Ubuntu: "
            "apt-get install python3-venv. Or name another Python: make PYTHON=/path/to/python3.12 …"
        ) from error
    del ensurepip, venv


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _stamp(folder: Path, requirements: Path) -> str:
    """What is installed for whom: after an upgrade of the Python below, the packages are out of its sight."""
    return f"{fingerprint(requirements)} {_python(folder).resolve()}"


def _is_stamped(folder: Path, requirements: Path) -> bool:
    stamp = folder / STAMP
    return stamp.exists() and _python(folder).exists() and stamp.read_text() == _stamp(folder, requirements)


def _works(folder: Path) -> bool:
    """Whether there is an environment whose Python and pip start; they do not after its base was removed."""
    if not os.access(_python(folder), os.X_OK):
        return False
    command = [str(_python(folder)), "-m", "pip", "--version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _make(folder: Path) -> None:
    if _works(folder):
        return
    print(f"Making the virtual environment {folder.name} with Python {sys.version.split()[0]} …", flush=True)
    command = [sys.executable, "-m", "venv", "--clear", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise InstallError(f"python -m venv failed:\n{result.stdout}{result.stderr}")


def _install(folder: Path, requirements: Path) -> None:
    """Run pip and show how far it is. Raises ``InstallError`` with the last that it said."""
    total = sum("==" in line for file in _with_includes(requirements) for line in file.read_text().splitlines())
    print(f"Installing the {total} packages of {requirements.name}; this takes a minute, once …", flush=True)
    command = [str(_python(folder)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", "-r", str(requirements)]
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout or []:
            said.append(line)
            _show_progress(line, said, total)
    if pip.returncode:
        raise InstallError("pip could not install the packages:\n" + "".join(said[-PIP_LINES_SHOWN:]))


def _show_progress(line: str, said: list[str], total: int) -> None:
    if line.startswith("Installing collected packages"):
        print("  unpacking them …", flush=True)
    elif line.startswith("Collecting "):
        found = sum(earlier.startswith("Collecting ") for earlier in said)
        if found % 20 == 0:
            print(f"  {found} of {total} found …", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
