"""The first login and the first API key: made once, kept in a file that only its owner may read."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand
from django.utils import timezone

from apikeys.queries import find_live_key
from apikeys.services import issue_key

USERNAME = "operator"
CHANGED = "(as you changed it)"


class Command(BaseCommand):
    """``bootstrap``: prints the credentials as JSON; a second run gives the same ones."""

    help = "Make the first operator's login and API key, or give them again."

    def handle(self, *args: Any, **options: Any) -> None:
        """Give the kept credentials while they work; else make new ones and keep them."""
        path = Path(os.environ["GPUFLEET_STATE"]) / "credentials.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        credentials = {"username": USERNAME, "password": _password(kept), "api_key": _api_key(kept)}
        if credentials != kept:
            _keep(path, credentials)
        self.stdout.write(json.dumps(credentials))


def _password(kept: dict[str, str]) -> str:
    """The operator's password; one that a person has changed is theirs, and stays."""
    user = User.objects.filter(username=USERNAME).first()
    password = kept.get("password") or secrets.token_urlsafe(12)
    if user is None:
        User.objects.create_superuser(USERNAME, password=password)
    elif "password" not in kept:
        user.set_password(password)
        user.save(update_fields=["password"])
    elif not user.check_password(password):
        return CHANGED
    return password


def _api_key(kept: dict[str, str]) -> str:
    now = timezone.now()
    if "api_key" in kept and find_live_key(kept["api_key"], now=now):
        return kept["api_key"]
    return issue_key(label="first key", permissions=["admin"], created_by="bootstrap", now=now).raw


def _keep(path: Path, credentials: dict[str, str]) -> None:
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(credentials, file)
    fresh.replace(path)
