"""What `make up` decides before it starts anything, and how it keeps its children."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpufleet import supervisor
from gpufleet.supervisor import System, UpError
from gpufleet.up import default_state, main

FORKS_AND_WAITS = "import os, time; os.fork(); print('here', flush=True); time.sleep(600)"


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    (tmp_path / "logs").mkdir()
    system = System(tmp_path)
    yield system
    system.stop()


def comes_true(holds: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def group_of(leader: int) -> list[int]:
    """The living processes of a group; one that is dead but not reaped does not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            status, _, group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(group) == leader and status != "Z":
            found.append(int(stat.parent.name))
    return found


def test_the_state_folder_is_the_chosen_one_or_outlives_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUFLEET_STATE", "chosen")
    assert default_state() == Path("chosen").absolute()
    monkeypatch.delenv("GPUFLEET_STATE")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state() == Path("/var/lib/gpufleet")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_state() == Path("/data/gpufleet")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/alice")
    assert default_state() == Path("/home/alice/.local/share/gpufleet")


@pytest.mark.parametrize("arguments", [[], ["reset"]])
def test_a_folder_with_other_things_in_it_is_neither_taken_over_nor_emptied(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    tmp_path.chmod(0o750)
    monkeypatch.setenv("GPUFLEET_STATE", str(tmp_path))
    assert main(arguments) == 1
    assert "not a state folder of gpufleet's" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years"
    assert tmp_path.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1", "8000.0"])
def test_a_port_that_is_none_is_refused(
    port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPUFLEET_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PORT", port)
    assert main([]) == 1
    assert capsys.readouterr().err == f"error: PORT={port} is not a port.\n"
    assert not (tmp_path / "state").exists()


def test_resetting_nothing_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUFLEET_STATE", str(tmp_path / "none"))
    assert main(["reset"]) == 0
    assert not (tmp_path / "none").exists()


def test_a_command_beside_nothing_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPUFLEET_STATE", str(tmp_path / "never"))
    assert main(["run", "--", "true"]) == 1
    assert "Nothing was ever started on" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def test_a_childs_own_children_end_with_it(system: System) -> None:
    system.launch("forks", sys.executable, "-c", FORKS_AND_WAITS)
    child = system.children[0]
    assert comes_true(lambda: child.log.read_text().count("here") == 2)
    assert len(group_of(child.process.pid)) == 2
    child.process.send_signal(signal.SIGKILL)
    child.process.wait()
    assert len(group_of(child.process.pid)) == 1
    system.stop()
    assert comes_true(lambda: not group_of(child.process.pid))


def test_a_child_that_died_is_named_with_its_last_lines(system: System) -> None:
    system.launch("chatty", sys.executable, "-c", "print(*range(100), sep='\\n'); raise SystemExit(5)")
    system.children[0].process.wait()
    with pytest.raises(UpError) as caught:
        system.check_children()
    first, *tail = str(caught.value).splitlines()
    assert first == f"chatty stopped with code 5; the end of {system.logs / 'chatty.log'}:"
    assert tail == [str(n) for n in range(80, 100)]


def test_waiting_ends_when_a_child_dies(system: System) -> None:
    system.launch("brief", sys.executable, "-c", "raise SystemExit(5)")
    with pytest.raises(UpError, match="brief stopped with code 5"):
        system.wait_for("nothing", lambda: False)


def test_waiting_has_an_end(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "READY_WITHIN_SECONDS", 0)
    with pytest.raises(UpError, match="web did not answer within 0 s"):
        system.wait_for("web", lambda: False)


def test_a_log_that_grows_large_is_put_aside_and_goes_on(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LARGEST_LOG_BYTES", 1000)
    echo = "import sys\nfor line in iter(sys.stdin.readline, ''): print(line, end='', flush=True)"
    path, log = system.open_log("echo")
    process = subprocess.Popen([sys.executable, "-c", echo], stdin=-1, stdout=log, start_new_session=True)
    system.adopt("echo", process, signal.SIGTERM, path)
    assert process.stdin is not None
    for text in ("x" * 2000, "after"):
        process.stdin.write(f"{text}\n".encode())
        process.stdin.flush()
        assert comes_true(lambda text=text: f"{text}\n" in path.read_text())  # type: ignore[misc]
        system.bound_logs()
    assert path.read_text() == "after\n"
    assert path.with_suffix(".log.1").read_text() == "x" * 2000 + "\n"


def test_a_start_keeps_the_log_of_the_one_before(system: System) -> None:
    for text in (b"first", b"second", b"third"):
        path, log = system.open_log("web")
        log.write(text)
        log.close()
    assert path.read_text() == "third"
    assert path.with_suffix(".log.1").read_text() == "second"
    assert len(list(system.logs.iterdir())) == 2


def test_a_command_shows_what_it_says_and_its_failure_ends_the_start(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    system.run("greeting", sys.executable, "-c", "print('hello')")
    assert re.fullmatch(r"\[ +\d\.\d s\] hello\n", capsys.readouterr().out)
    with pytest.raises(UpError, match="migrate failed with code 1:\nno such table"):
        system.run("migrate", sys.executable, "-c", "raise SystemExit('no such table')")
