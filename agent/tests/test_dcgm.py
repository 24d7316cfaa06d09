"""A page as dcgm-exporter writes it, over a real HTTP server, into the fleet.

``dcgm.prom`` has the labels, their order, the texts and the units of the exporter's own default counters, and one MIG
GPU. The second GPU's fields are blank in every way in which DCGM says so; older exporters print that, newer ones leave
the lines out.
"""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from clusters.models import GPU, LatestReading
from django.utils import timezone

from gpufleet_agent.dcgm import DcgmSource, parse_page
from gpufleet_agent.devices import Device, Reading, SourceFailed
from tests.fleet import Fleet

PAGE = (Path(__file__).parent / "dcgm.prom").read_bytes()


class Exporter(BaseHTTPRequestHandler):
    """Serves the page."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Exporter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_readings_are_in_our_units_and_blanks_are_missing(url: str) -> None:
    assert DcgmSource(f"{url}/metrics").readings() == {
        "GPU-aaaa": Reading(97.0, 60_000, 81_000, 61.0, 321.45, None),
        "GPU-bbbb": Reading(xid=13),
        "GPU-cccc": Reading(75.0, 10_400, None, 48.0, None, None),
    }


def test_a_gpu_that_mig_cuts_up_is_one_gpu(url: str) -> None:
    devices = DcgmSource(f"{url}/metrics").devices()
    assert [device.index for device in devices] == [0, 1, 2]
    assert devices[2] == Device(2, "GPU-cccc", "NVIDIA A100-SXM4-80GB", 80_480, "00000000:47:00.0")


def test_another_cut_of_a_mig_gpu_is_no_loss_of_memory(
    monkeypatch: pytest.MonkeyPatch, url: str, fleet: Fleet, tmp_path: Path
) -> None:
    telemetry = fleet.telemetry(tmp_path, source=DcgmSource(f"{url}/metrics"))
    for second in (0, 12, 13):
        telemetry.step(timezone.now(), float(second))
    one_instance = b"\n".join(line for line in PAGE.splitlines() if b'GPU_I_ID="2"' not in line)
    monkeypatch.setattr("tests.test_dcgm.PAGE", one_instance)
    for second in (24, 36):
        telemetry.step(timezone.now(), float(second))
    reading = LatestReading.objects.get(gpu__uuid="GPU-cccc")
    assert (reading.memory_used_mb, reading.gpu.health) == (10_000, "healthy")


def test_a_page_without_a_gpu_is_no_word_that_all_are_gone(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr("tests.test_dcgm.PAGE", b"# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).\n")
    with pytest.raises(SourceFailed, match="names no GPU"):
        DcgmSource(f"{url}/metrics").devices()


@pytest.mark.parametrize("number", ["2147483632", "2147483635", "9223372036854775792", "140737488355331.000000", "NaN"])
def test_every_blank_is_missing(number: str) -> None:
    assert parse_page(f'DCGM_FI_DEV_GPU_TEMP{{gpu="0",UUID="GPU-a"}} {number}') == {
        "GPU-a": ({"gpu": "0", "UUID": "GPU-a"}, {})
    }


@pytest.mark.parametrize("place", ["{}/nowhere", "http://127.0.0.1:9/metrics"])
def test_an_exporter_that_is_not_there_is_said_to_be(url: str, place: str) -> None:
    with pytest.raises(SourceFailed):
        DcgmSource(place.format(url)).readings()


def test_the_page_goes_into_the_fleet(url: str, fleet: Fleet, tmp_path: Path) -> None:
    telemetry = fleet.telemetry(tmp_path, source=DcgmSource(f"{url}/metrics"))
    telemetry.step(timezone.now(), 0.0)
    telemetry.step(timezone.now(), 12.0)
    telemetry.step(timezone.now(), 13.0)
    reading = LatestReading.objects.get(gpu__uuid="GPU-aaaa")
    assert (reading.utilization_pct, reading.memory_total_mb, reading.power_draw_w) == (97, 81_000, 321.45)
    assert LatestReading.objects.get(gpu__uuid="GPU-bbbb").temperature_c is None
    assert GPU.objects.count() == 3
