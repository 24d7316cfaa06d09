"""A process that carries a run on, to be killed at a failpoint: see ``test_bulk.py``."""

import os
import sys

import django


def main(run_id: int) -> None:
    """All that is left, as the console's requests do it."""
    from django.contrib import admin
    from django.utils import timezone

    from gpufleet.common import bulk
    from gpufleet.common.models import BulkRun

    admin.autodiscover()  # It makes the kinds of work known.
    run = BulkRun.objects.get(pk=run_id)
    while run.finished_at is None:
        bulk.carry_on(run, actor="user:fred", now=timezone.now())


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")
    django.setup()
    main(int(sys.argv[1]))
