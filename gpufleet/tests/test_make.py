"""The Makefile, and the environments that it makes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpufleet import install
from gpufleet.install import InstallError, fingerprint
from gpufleet.supervisor import ROOT


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # As if no other make had called us, such as that of `make test`.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_help_explains_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    declared = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert declared
    shown = dict(re.findall(r"^  make (\S+)\s+(\S.*)$", make("help").stdout, re.MULTILINE))
    assert set(declared[1].split()) - {"python"} == set(shown)
    assert set(re.findall(r"^([a-z-]+):", text, re.MULTILINE)) == set(declared[1].split())
    assert make().stdout == make("help").stdout


def test_a_python_that_does_not_do_is_named(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\ncase \"$2\" in *exit*) exit 1;; *print*) echo '  python3.8: Python 3.8';; esac\n")
    old.chmod(0o755)
    result = make("python", f"PYTHON={old}")
    assert result.returncode
    assert "gpufleet needs Python 3.11 or newer" in result.stderr
    assert "python3.8: Python 3.8" in result.stderr
    missing = make("python", "PYTHON=/nowhere/python3")
    assert missing.returncode
    assert "gpufleet needs Python 3.11 or newer" in missing.stderr


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    """Nothing to install, so that no registry is asked."""
    (tmp_path / "base.txt").write_text("# nothing\n")
    path = tmp_path / "requirements.txt"
    path.write_text("-r base.txt\n")
    return path


@pytest.mark.slow
def test_an_environment_is_made_once_and_again_only_when_a_requirement_changes(
    requirements: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = requirements.with_name(".venv")
    install.ensure(folder, requirements)
    assert "Making the virtual environment .venv" in capsys.readouterr().out
    install.ensure(folder, requirements)
    assert capsys.readouterr().out == ""
    (requirements.parent / "base.txt").write_text("# still nothing\n")
    install.ensure(folder, requirements)
    out = capsys.readouterr().out
    assert "Installing" in out
    assert "Making" not in out
    (folder / "bin" / "python").unlink()  # As after the removal of the Python below.
    install.ensure(folder, requirements)
    assert "Making the virtual environment .venv" in capsys.readouterr().out


@pytest.mark.slow
def test_what_pip_says_is_passed_on_and_nothing_is_stamped(requirements: Path) -> None:
    requirements.write_text("no such requirement!\n")
    folder = requirements.with_name(".venv")
    with pytest.raises(InstallError, match="Invalid requirement"):
        install.ensure(folder, requirements)
    assert not (folder / install.STAMP).exists()


def test_the_fingerprint_covers_included_files(requirements: Path) -> None:
    before = fingerprint(requirements)
    assert fingerprint(requirements) == before
    (requirements.parent / "base.txt").write_text("django\n")
    assert fingerprint(requirements) != before


def test_a_python_without_venv_is_told_apart(
    requirements: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert install.main([str(requirements.with_name(".venv")), str(requirements)]) == 1
    assert "apt-get install python3-venv" in capsys.readouterr().err


def test_every_requirement_is_pinned() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            assert not line or line[0] in "#-" or re.match(r"[a-z0-9-]+(\[[a-z,]+\])?==\S+", line), line


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_ci_is_a_script_that_stops_at_the_first_failure() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
