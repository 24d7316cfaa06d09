"""A page as dcgm-exporter writes it, over a real HTTP server, into the fleet."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from clusters.models import GPU, LatestReading
from django.utils import timezone

from gpufleet_agent.dcgm import DcgmSource
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
        "GPU-aaaa": Reading(97.0, 60_000, 80_000, 61.0, 321.45, None),
        "GPU-bbbb": Reading(xid=13),
        "GPU-cccc": Reading(75.0, 10_400, 80_400, 48.0, None, None),
    }


def test_a_gpu_that_mig_cuts_up_is_one_gpu(url: str) -> None:
    devices = DcgmSource(f"{url}/metrics").devices()
    assert [device.index for device in devices] == [0, 1, 2]
    assert devices[2] == Device(2, "GPU-cccc", "NVIDIA A100-SXM4-80GB", 80_400, "00000000:47:00.0")


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
    assert (reading.utilization_pct, reading.memory_total_mb, reading.power_draw_w) == (97, 80_000, 321.45)
    assert LatestReading.objects.get(gpu__uuid="GPU-bbbb").temperature_c is None
    assert GPU.objects.count() == 3
