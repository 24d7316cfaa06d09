from django.apps import AppConfig


class JobsConfig(AppConfig):
    """The queue, the scheduler, and the ledger of who held which GPU when."""

    name = "jobs"
