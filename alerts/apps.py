from django.apps import AppConfig


class AlertsConfig(AppConfig):
    """Rules that watch the fleet, and the incidents they find."""

    name = "alerts"
