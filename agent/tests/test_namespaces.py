"""Two agents in network namespaces of their own, one of which is cut off for a while."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters.models import GPU, MetricSample
from django.db.models import Max
from pytest_django.live_server_helper import LiveServer

from tests.fleet import make_fleet

HERE = Path(__file__).parent
# From a range that no network uses: benchmarks of routers (RFC 2544).
BASE = f"198.19.{os.getpid() % 250}"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Namespace:
    """A network of its own, with one cable to this one."""

    def __init__(self, number: int) -> None:
        self.name, self.cable = f"gf{os.getpid()}n{number}", f"gf{os.getpid() % 100_000}v{number}"
        self.here, self.there = f"{BASE}.{4 * number + 1}", f"{BASE}.{4 * number + 2}"
        ip("netns", "add", self.name)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("addr", "add", f"{self.here}/30", "dev", self.cable)
        ip("link", "set", self.cable, "up")
        ip("-n", self.name, "addr", "add", f"{self.there}/30", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")

    def plug(self, *, in_: bool) -> None:
        ip("link", "set", self.cable, "up" if in_ else "down")

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


@pytest.fixture
def namespaces() -> Iterator[list[Namespace]]:
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` here to make network namespaces")
    made: list[Namespace] = []
    try:
        for number in (1, 2):
            made.append(Namespace(number))
    except subprocess.CalledProcessError as error:
        for one in made:
            one.close()
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.decode().strip()}")
    yield made
    for one in made:
        one.close()


@pytest.fixture
def server(transactional_db: None, settings: Any) -> Iterator[LiveServer]:
    settings.ALLOWED_HOSTS = ["*"]
    server = LiveServer("0.0.0.0")  # noqa: S104  (the namespaces reach it by other addresses than localhost)
    yield server
    server.stop()


def start(
    namespace: Namespace, number: int, port: int, key: Path, cluster: int, state: Path
) -> subprocess.Popen[bytes]:
    agent = [sys.executable, "-m", "gpufleet_agent.main", "run", "--simulate", "2", "--hostname", f"node-{number}"]
    where = ["--server", f"http://{namespace.here}:{port}", "--key-file", str(key), "--cluster", str(cluster)]
    pace = ["--interval", "0.5", "--heartbeat", "1", "--state", str(state / f"state-{number}")]
    command = ["ip", "netns", "exec", namespace.name, *agent, *where, *pace]
    return subprocess.Popen(command, cwd=HERE.parent, stderr=subprocess.DEVNULL)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def samples_of(hostname: str) -> list[Any]:
    gpus = GPU.objects.filter(node__hostname=hostname).values("pk")
    return list(MetricSample.objects.filter(gpu_id__in=gpus).values_list("recorded_at", "gpu_id"))


@pytest.mark.slow
def test_one_that_is_cut_off_catches_up_and_the_other_notices_nothing(
    namespaces: list[Namespace], server: LiveServer, tmp_path: Path
) -> None:
    fleet = make_fleet(server.url)
    key = tmp_path / "key"
    key.write_text(fleet.key)
    port = int(server.url.rsplit(":", 1)[1])
    agents = [
        start(one, number, port, key, fleet.cluster.pk, tmp_path) for number, one in enumerate(namespaces, start=1)
    ]
    try:
        wait_until(lambda: all(len(samples_of(f"node-{number}")) > 4 for number in (1, 2)))
        namespaces[0].plug(in_=False)
        time.sleep(1)
        before = len(samples_of("node-1"))
        others = len(samples_of("node-2"))
        wait_until(lambda: len(samples_of("node-2")) > others + 8)
        assert len(samples_of("node-1")) == before
        cut_until = MetricSample.objects.aggregate(at=Max("recorded_at"))["at"]
        namespaces[0].plug(in_=True)
        wait_until(lambda: any(at > cut_until for at, _ in samples_of("node-1")))
    finally:
        for agent in agents:
            agent.terminate()
        codes = [agent.wait(30) for agent in agents]
    assert codes == [0, 0]
    found = samples_of("node-1")
    assert len(found) == len(set(found))
    moments = sorted({at for at, _ in found})
    gaps = [(after - first).total_seconds() for first, after in zip(moments, moments[1:], strict=False)]
    assert max(gaps) < 3  # It was cut off for longer than that, and sampled on.
