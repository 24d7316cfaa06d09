from django.apps import AppConfig


class DashboardConfig(AppConfig):
    """The operator's console, and the figures over the whole house."""

    name = "dashboard"
