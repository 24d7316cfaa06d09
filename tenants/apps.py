from django.apps import AppConfig


class TenantsConfig(AppConfig):
    """Who rents GPUs: tenants, their plan and quota, and what a caller may see."""

    name = "tenants"
