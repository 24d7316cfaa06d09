"""NVML for real: nvidia-ml-py loads a library that is built here, of eight GPUs that obey a file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clusters.models import GPU

from gpufleet_agent.devices import Device, Reading
from tests.fleet import Fleet

LIBRARY = Path(__file__).parent / "fake_nvml.c"
GCC = shutil.which("gcc")
# The bindings load the driver's library once a process, so each look is a process of its own.
LOOK = """
import json
from gpufleet_agent.nvml import NvmlSource
source = NvmlSource()
print(json.dumps([[vars(one) for one in source.devices()], {u: vars(r) for u, r in source.readings().items()}]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if GCC is None:
        pytest.skip("there is no gcc here to build the library")
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run([GCC, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", LIBRARY], check=True)
    return folder


class FakeNvml:
    """A source that looks in another process. ``gone`` and ``broken`` are GPUs by their number."""

    def __init__(self, library: Path) -> None:
        self.library, self.gone, self.broken = library, "", ""

    def look(self) -> Any:
        found = subprocess.run(
            [sys.executable, "-c", LOOK],
            env={**os.environ, "LD_LIBRARY_PATH": str(self.library), "GONE": self.gone, "BROKEN": self.broken},
            cwd=Path(__file__).parent.parent,
            check=True,
            capture_output=True,
            text=True,
        )
        return json.loads(found.stdout)

    def devices(self) -> list[Device]:
        return [Device(**one) for one in self.look()[0]]

    def readings(self) -> dict[str, Reading]:
        return {uuid: Reading(**figures) for uuid, figures in self.look()[1].items()}


def test_eight_gpus_are_read_in_our_units(library: Path) -> None:
    nvml = FakeNvml(library)
    devices, readings = nvml.devices(), nvml.readings()
    assert [device.index for device in devices] == list(range(8))
    assert devices[3] == Device(3, "GPU-fake-3", "NVIDIA H100 80GB HBM3", 81_920, "00000000:13:00.0")
    assert readings["GPU-fake-3"] == Reading(13.0, 1_024 + 3, 81_920, 43, 303.5, None)
    assert len(readings) == 8


def test_a_gpu_that_fails_a_query_is_read_without_that_figure(library: Path) -> None:
    nvml = FakeNvml(library)
    nvml.broken = "2"
    reading = nvml.readings()["GPU-fake-2"]
    assert reading.temperature_c is None
    assert reading.power_draw_w == 302.5


def test_a_gpu_that_disappears_is_out_of_service_and_the_others_stay_who_they_are(
    library: Path, fleet: Fleet, tmp_path: Path
) -> None:
    from django.utils import timezone

    nvml = FakeNvml(library)
    telemetry = fleet.telemetry(tmp_path, source=nvml)
    telemetry.step(timezone.now(), 0.0)
    before = dict(GPU.objects.values_list("uuid", "pk"))
    assert len(before) == 8
    nvml.gone = "2"
    telemetry.step(timezone.now(), 20.0)
    after = {gpu.uuid: gpu for gpu in GPU.objects.all()}
    assert {uuid: gpu.pk for uuid, gpu in after.items()} == before
    assert (after["GPU-fake-2"].health, after["GPU-fake-2"].health_cause) == ("unhealthy", "vanished")
    assert {gpu.health for uuid, gpu in after.items() if uuid != "GPU-fake-2"} == {"healthy"}
    nvml.gone = ""
    telemetry.step(timezone.now(), 40.0)
    assert set(GPU.objects.values_list("health", flat=True)) == {"healthy"}


def test_without_a_driver_it_says_so_and_ends(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("gfk_x")
    command = [sys.executable, "-m", "gpufleet_agent.main", "run", "--server", "http://127.0.0.1:9", "--cluster", "1"]
    ended = subprocess.run(
        [*command, "--key-file", str(tmp_path / "key"), "--state", str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "LD_LIBRARY_PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if "NVML does not start" not in ended.stderr:
        pytest.skip("this machine has a driver")
    assert ended.returncode == 2
