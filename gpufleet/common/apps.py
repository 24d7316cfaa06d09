from django.apps import AppConfig


class CommonConfig(AppConfig):
    """The floor: errors, problem documents, pagination, idempotency, locks."""

    name = "gpufleet.common"
    label = "common"
    verbose_name = "Infrastructure"
