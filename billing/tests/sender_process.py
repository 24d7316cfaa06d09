"""A process that finalises an invoice and sends it, to be killed at a failpoint: see ``test_kill_sender.py``."""

import os
import sys

import django


def main(invoice_id: int) -> None:
    """Finalise, if that has not been done, and send all that is due."""
    from django.utils import timezone

    from billing import services
    from billing.models import Invoice
    from billing.tasks import send_outbox

    if Invoice.objects.get(pk=invoice_id).status == "draft":
        services.move_invoice(invoice_id=invoice_id, to="open", actor="test", now=timezone.now())
    send_outbox()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")
    django.setup()
    main(int(sys.argv[1]))
