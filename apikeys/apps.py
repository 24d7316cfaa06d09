from django.apps import AppConfig


class ApiKeysConfig(AppConfig):
    """API keys: minted once, stored as a digest, revoked at once."""

    name = "apikeys"
    verbose_name = "API keys"
