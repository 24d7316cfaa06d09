from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class DashboardConfig(AppConfig):
    """The operator's console, and the figures over the whole house."""

    name = "dashboard"

    def ready(self) -> None:
        """Have Django check how people log in, and the console speak as people write."""
        from dashboard import checks, words  # noqa: F401  (checks are registered by being imported)

        words.use_words()


class ConsoleConfig(admin_apps.AdminConfig):
    """Django's admin, with our own site in place of its own."""

    default = False  # Named in INSTALLED_APPS; the other one is what "dashboard" stands for.
    default_site = "dashboard.admin_site.ConsoleSite"
