from django.apps import AppConfig


class GpufleetConfig(AppConfig):
    """The composition root."""

    name = "gpufleet"

    def ready(self) -> None:
        """Make our Celery application the current one, so that a task sent by the web reaches our broker."""
        import gpufleet.celery  # noqa: F401  (for its effect)
