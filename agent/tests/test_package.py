"""What a node may count on."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpufleet_agent import main
from tests.fleet import Fleet

AGENT = Path(__file__).parent.parent
PACKAGE = AGENT / "gpufleet_agent"
OLDEST = (3, 9)
# What later Pythons' standard libraries brought, of what such a package might be tempted to use.
LATER = {
    "removeprefix": (3, 9), "pairwise": (3, 10), "aclosing": (3, 10), "StrEnum": (3, 11), "tomllib": (3, 11),
    "UTC": (3, 11), "chdir": (3, 11), "batched": (3, 12), "override": (3, 12), "Self": (3, 11), "assert_never": (3, 11),
    "NotRequired": (3, 11), "TypeAlias": (3, 10), "ParamSpec": (3, 10), "file_digest": (3, 11), "add_note": (3, 11),
    "ExceptionGroup": (3, 11), "bit_count": (3, 10), "is_junction": (3, 12), "walk_up": (3, 12),
}  # fmt: skip
LATER_ARGUMENTS = {("zip", "strict"), ("dataclass", "slots"), ("dataclass", "kw_only"), ("Popen", "process_group")}


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda file: file.name)
def test_its_syntax_and_what_it_calls_are_the_oldest_pythons(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=OLDEST)
    lazily = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    assert lazily or file.name == "__init__.py", "annotations are evaluated, which Python 3.9 can't"
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {one.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for one in node.names}
    assert not {name for name in names if LATER.get(name, OLDEST) > OLDEST}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    arguments = {(ast.unparse(call.func).split(".")[-1], one.arg) for call in calls for one in call.keywords}
    assert not arguments & LATER_ARGUMENTS


def test_it_brings_nothing_but_itself() -> None:
    code = "import sys, gpufleet_agent.main, gpufleet_agent.cli; print(*{name.split('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-S", "-c", code], cwd=AGENT, capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) - set(sys.stdlib_module_names) <= {"gpufleet_agent", "__main__"}


def oldest_python() -> str | None:
    """A Python 3.9 that runs, wherever it is kept."""
    kept = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.9.*/bin/python"))
    for candidate in (shutil.which("python3.9"), *map(str, kept)):
        says = [candidate or "false", "-c", "import sys, venv; print(sys.version_info[:2] == (3, 9))"]
        if candidate and "True" in subprocess.run(says, capture_output=True, text=True, check=False).stdout:
            return candidate
    return None


def test_systemd_understands_the_unit_and_the_agent_what_it_is_started_with(tmp_path: Path) -> None:
    unit = (AGENT / "gpufleet-agent.service").read_text()
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    program, *arguments = start.removeprefix("ExecStart=").split()
    options = main._parser().parse_args([{"${CLUSTER}": "7"}.get(one, one) for one in arguments if one != "$OPTIONS"])
    assert (options.cluster, str(options.state)) == (7, "/var/lib/gpufleet-agent")
    assert "\nKillMode=process\n" in unit, "jobs live on while the agent restarts"
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd here to check the rest")
    (tmp_path / "gpufleet-agent.service").write_text(unit.replace(program, sys.executable))
    says = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "gpufleet-agent.service"], capture_output=True, text=True, check=False
    )
    assert (says.returncode, says.stderr) == (0, "")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install ./agent` builds, here without an index; of a copy, since a build leaves its traces."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(AGENT, folder / "agent", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*build, "--wheel-dir", str(folder), str(folder / "agent")], capture_output=True, text=True, check=False
    )
    if "bdist_wheel" in built.stderr + built.stdout or "No module named" in built.stderr:
        pytest.skip("there is no setuptools here that builds wheels")
    assert not built.returncode, built.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["this", "oldest"])
def test_it_is_installed_and_works_where_nothing_else_is(wheel: Path, tmp_path: Path, fleet: Fleet, which: str) -> None:
    python = oldest_python() if which == "oldest" else sys.executable
    if python is None:
        pytest.skip("there is no Python 3.9 here")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True, capture_output=True)
    bin_ = tmp_path / "venv" / "bin"
    install = [str(bin_ / "python"), "-m", "pip", "install", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    key = tmp_path / "key"
    key.write_text(fleet.key)
    agent = subprocess.Popen(
        [
            str(bin_ / "gpufleet-agent"), "run", "--server", fleet.server, "--cluster", str(fleet.cluster.pk),
            "--key-file", str(key), "--state", str(tmp_path / "state"), "--simulate", "2", "--execute", "process",
        ],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert agent.stderr is not None
    try:
        said = [agent.stderr.readline() for _ in range(2)]
    finally:
        agent.terminate()
        agent.communicate(timeout=30)
    assert "2 GPUs registered" in said[1], said
    assert agent.returncode == 0
    help_ = subprocess.run(
        [str(bin_ / "gpufleet"), "jobs", "submit", "--help"], capture_output=True, text=True, check=True
    )
    assert "no shell reads them" in help_.stdout
    found = [str(bin_ / "python"), "-c", "import gpufleet_agent; print(gpufleet_agent.__file__)"]
    where = subprocess.run(found, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(where).is_relative_to(tmp_path)
    assert sorted(one.name for one in Path(where).parent.glob("*.py*")) == sorted(
        one.name for one in PACKAGE.glob("*.py*")
    )
