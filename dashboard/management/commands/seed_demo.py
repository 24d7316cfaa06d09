"""``manage.py seed_demo``: the demo fleet and its two weeks of history, once."""

import logging
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection
from django.utils import timezone

from dashboard.demo import seeding
from dashboard.demo.keys import FILE, read_keys, write_keys


class Command(BaseCommand):
    """Fills an empty database with the demo; a second run changes nothing, but renews keys whose file is lost."""

    help = "Make the demo fleet: 2 clusters, 32 nodes, 256 GPUs, 5 tenants, rates and two weeks of history."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--state`` is the folder that the keys of the simulation are written to."""
        parser.add_argument("--state", type=Path, required=True, help="folder for demo.json, the simulation's keys")

    def handle(self, *args: Any, **options: Any) -> None:
        """Seed, or say why not."""
        state: Path = options["state"]
        logging.disable(logging.WARNING)  # Two weeks of events are no log of today.
        try:
            if not self._seed(state):
                self._look_after(state)
        finally:
            logging.disable(logging.NOTSET)

    def _seed(self, state: Path) -> bool:
        if not seeding.is_empty():
            return False
        began = time.monotonic()
        seeded = seeding.seed(now=timezone.now())
        if seeded is None:
            return False
        write_keys(state, seeded.keys)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")  # The tables were empty a moment ago; the planner should know better now.
        seconds = time.monotonic() - began
        self.stdout.write(f"demo: seeded two weeks of history in {seconds:.1f} s ({seeded.moments} moments)")
        return True

    def _look_after(self, state: Path) -> None:
        if not seeding.is_demo():
            self.stdout.write("demo: not seeded, since the database holds other clusters or tenants; nothing changed")
            return
        if read_keys(state) is not None:
            self.stdout.write("demo: seeded already, nothing to do")
            return
        write_keys(state, seeding.renew_keys(now=timezone.now()))
        self.stdout.write(f"demo: seeded already; {FILE} was lost, so its keys are revoked and new ones written")
