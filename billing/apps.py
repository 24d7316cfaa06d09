from django.apps import AppConfig


class BillingConfig(AppConfig):
    """Rates, invoices, and the proof behind every cent."""

    name = "billing"
