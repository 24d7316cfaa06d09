"""A process that evaluates and delivers without end, to be killed at any instant: see ``test_kill_evaluators.py``."""

import os
from datetime import timedelta

import django


def main() -> None:
    """As the beat does, but all the time, and with leases that end soon."""
    from django.utils import timezone

    from alerts import services
    from alerts.services import outbox

    outbox.LEASE = timedelta(seconds=1)
    while True:
        services.evaluate_rules(now=timezone.now())
        services.deliver_due(now=timezone.now())


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")
    django.setup()
    main()
