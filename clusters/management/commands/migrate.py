from typing import Any

from django.conf import settings
from django.core.management.commands import migrate
from django.db import DEFAULT_DB_ALIAS


class Command(migrate.Command):
    """Django's ``migrate``, which does the samples' database too where they have one of their own."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Both, unless another than the main one is named."""
        super().handle(*args, **options)
        if options["database"] == DEFAULT_DB_ALIAS != settings.SAMPLES_DATABASE:
            super().handle(*args, **{**options, "database": settings.SAMPLES_DATABASE})
