"""``manage.py seed_large``: a fleet of 10,000 GPUs with 100,000 jobs and 90 days of history."""

import logging
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.utils import timezone

from billing.queries import list_price_changes
from dashboard.demo.large import seed_large
from jobs.ledger.rollups import roll_up


class Command(BaseCommand):
    """Fills an empty database, and rolls its days up as the beat would."""

    help = "Make a large fleet: 10,000 GPUs, 100,000 jobs, 90 days of history. Only in an empty database."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """How much of it."""
        parser.add_argument("--gpus", type=int, default=10_000)
        parser.add_argument("--jobs", type=int, default=100_000)

    def handle(self, *args: Any, **options: Any) -> None:
        """Seed, or say why not."""
        logging.disable(logging.WARNING)  # Ninety days of events are no log of today.
        began = time.monotonic()
        try:
            if not seed_large(gpus=options["gpus"], jobs=options["jobs"], now=timezone.now()):
                raise CommandError("the database holds clusters or tenants already; nothing changed")
            while roll_up(now=timezone.now(), cuts=list_price_changes()):
                pass
        finally:
            logging.disable(logging.NOTSET)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        self.stdout.write(f"a large fleet was seeded in {time.monotonic() - began:.0f} s")
