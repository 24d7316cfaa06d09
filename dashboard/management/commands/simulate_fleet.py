"""``manage.py simulate_fleet``: keeps the demo fleet alive, over the public HTTP API and nothing else."""

import logging
import signal
import threading
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import structlog
from django.core.management.base import BaseCommand
from django.utils import timezone

from dashboard.demo.catalog import CLUSTERS
from dashboard.demo.client import Api, Refused, Stopped
from dashboard.demo.keys import FILE, read_keys
from dashboard.demo.live import LiveFleet

logger = structlog.stdlib.get_logger(__name__)

SEED = 7
# The server may be restarting with other keys; whoever is refused at the door knocks again.
KNOCK_AGAIN_S = 30.0


class Command(BaseCommand):
    """Heartbeats, metrics and jobs of the demo fleet, until SIGTERM or SIGINT."""

    help = "Simulate the demo fleet: node agents and customers that speak to a server as real ones would."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Where the server is, and where ``seed_demo`` has put the keys."""
        parser.add_argument("--server", required=True, help="the server's URL, such as http://127.0.0.1:8000")
        parser.add_argument("--state", type=Path, required=True, help="folder that holds demo.json")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until told to stop."""
        logging.getLogger("httpx").setLevel(logging.WARNING)  # Else a line for each heartbeat.
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        try:
            while not stop.is_set():
                simulate(options["server"], options["state"], stop)
        except Stopped:
            pass
        self.stdout.write("the simulated fleet has stopped")


def simulate(server: str, state: Path, stop: threading.Event) -> None:
    """Register and go on until told to stop; return where there is no demo, or its door is closed, to try again.

    Raises ``Stopped``.
    """
    keys = read_keys(state)
    if keys is None:
        logger.info("no keys: there is no demo here", file=str(state / FILE))
        stop.wait(KNOCK_AGAIN_S)
        return
    api = Api(server, stop=stop)
    try:
        fleet = LiveFleet(api, keys, CLUSTERS, seed=SEED, now=timezone.now())
        while not stop.wait(fleet.step(timezone.now())):
            pass
    except Refused as refusal:
        logger.warning("refused at the door", refusal=str(refusal))
        stop.wait(KNOCK_AGAIN_S)
    finally:
        api.close()
