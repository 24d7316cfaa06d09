"""What a database needs before the servers start: its tables, the first login and key, the demo. In one process,
since loading Django takes longer than finding that nothing is to be done.
"""

import json
import os
import secrets
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.utils import timezone

from apikeys.queries import find_live_key
from apikeys.services import issue_key

USERNAME = "operator"
CHANGED = "(as you changed it)"


class Command(BaseCommand):
    """``bootstrap``: keeps the credentials in the state folder's credentials.json; a second run keeps the same ones."""

    help = "Migrate, and make the first operator's login and API key; with --demo the demo fleet too."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--state`` is the folder for credentials.json and the demo's keys."""
        parser.add_argument("--state", type=Path, required=True, help="folder for credentials.json and demo.json")
        parser.add_argument("--demo", action="store_true", help="seed the demo fleet, unless there is one")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what is missing, with a line for each step."""
        self._say("migrating the database")
        call_command("migrate", verbosity=0)
        self._keep_credentials(options["state"] / "credentials.json")
        if options["demo"]:
            self._say("seeding the demo (two weeks of history; half a minute the first time)")
            call_command("seed_demo", state=options["state"], stdout=self.stdout)

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()

    def _keep_credentials(self, path: Path) -> None:
        """Keep those that are kept while they work; else make new ones."""
        kept = json.loads(path.read_text()) if path.exists() else {}
        credentials = {"username": USERNAME, "password": _password(kept), "api_key": _api_key(kept)}
        if credentials != kept:
            _keep(path, credentials)


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
