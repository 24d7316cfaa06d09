"""Processes that keep to one processor, as processes."""

import os
import subprocess
import sys

import pytest

SAYS = """
import os, sys, threading
from gpufleet.common.processors import keep_to_one
kept, found = keep_to_one(), []
thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
thread.start()
thread.join()
print(kept, *found[0], flush=True)
sys.stdin.read()
"""

WEB = "import os, gpufleet.wsgi; print(*os.sched_getaffinity(0))"

# One after the other: whoever takes all processors leaves none.
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has processors to keep to"),
    pytest.mark.xdist_group("processors"),
]


class Process:
    """One that has taken a processor, or tried."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", SAYS], stdin=-1, stdout=-1, text=True)
        assert self._process.stdout is not None
        kept, *on = self._process.stdout.readline().split()
        self.kept = None if kept == "None" else int(kept)
        self.threads_run_on = {int(number) for number in on}

    def end(self) -> None:
        self._process.communicate("")


def test_each_process_and_its_threads_keep_to_a_processor_of_their_own() -> None:
    allowed = os.sched_getaffinity(0)
    running = [Process() for _ in allowed]
    try:
        # Another system on this machine may have some of them.
        taken = [one.kept for one in running if one.kept is not None]
        assert len(set(taken)) == len(taken) > 0
        assert set(taken) <= allowed
        assert all(one.threads_run_on == ({one.kept} if one.kept is not None else allowed) for one in running)
        late = Process()
        late.end()
        assert (late.kept, late.threads_run_on) == (None, allowed)
        running.pop(next(n for n, one in enumerate(running) if one.kept == taken[-1])).end()
        again = Process()
        again.end()
        assert again.kept == taken[-1]
    finally:
        for one in running:
            one.end()


@pytest.mark.parametrize("wanted", ["1", "0"])
def test_a_web_process_keeps_to_one_where_the_installation_wants_it(wanted: str) -> None:
    env = {**os.environ, "WEB_CPU_AFFINITY": wanted}
    done = subprocess.run([sys.executable, "-c", WEB], env=env, capture_output=True, text=True, check=True)
    runs_on = {int(number) for number in done.stdout.split()}
    assert (len(runs_on) == 1) == (wanted == "1" or len(os.sched_getaffinity(0)) == 1)
