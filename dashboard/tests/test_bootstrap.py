"""The first login and the first key."""

import io
import json
import os
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from apikeys.models import ApiKey
from apikeys.queries import find_live_key
from apikeys.services import revoke_key
from dashboard.management.commands.bootstrap import CHANGED

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUFLEET_STATE", str(tmp_path))
    return tmp_path


def bootstrap() -> dict[str, str]:
    out = io.StringIO()
    call_command("bootstrap", stdout=out)
    credentials: dict[str, str] = json.loads(out.getvalue())
    return credentials


def test_the_login_and_the_key_open_the_doors_and_stay_the_same(state: Path, client: Client) -> None:
    first = bootstrap()
    assert client.login(username=first["username"], password=first["password"])
    assert client.get("/admin/").status_code == 200
    assert client.get("/api/clusters", headers={"authorization": f"Bearer {first['api_key']}"}).status_code == 200
    assert (state / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert bootstrap() == first
    assert User.objects.count() == ApiKey.objects.count() == 1


def test_a_revoked_key_is_replaced() -> None:
    first = bootstrap()
    revoke_key(key_id=ApiKey.objects.get().pk, now=timezone.now())
    second = bootstrap()
    assert second["password"] == first["password"]
    assert find_live_key(second["api_key"], now=timezone.now())
    assert bootstrap() == second


def test_a_password_that_a_person_chose_stays_and_is_not_shown() -> None:
    bootstrap()
    user = User.objects.get()
    user.set_password("chosen by a person")
    user.save()
    assert bootstrap()["password"] == CHANGED
    assert bootstrap()["password"] == CHANGED
    assert User.objects.get().check_password("chosen by a person")


def test_a_lost_file_is_made_again(state: Path, client: Client) -> None:
    bootstrap()
    os.unlink(state / "credentials.json")
    again = bootstrap()
    assert client.login(username=again["username"], password=again["password"])
