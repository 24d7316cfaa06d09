"""The first login and the first key."""

import io
import json
from collections.abc import Callable
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
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db

Bootstrap = Callable[[], dict[str, str]]


@pytest.fixture
def bootstrap(tmp_path: Path) -> Bootstrap:
    """Run it, and give the credentials that it keeps."""

    def run() -> dict[str, str]:
        call_command("bootstrap", state=tmp_path, stdout=io.StringIO())
        credentials: dict[str, str] = json.loads((tmp_path / "credentials.json").read_text())
        return credentials

    return run


def test_the_login_and_the_key_open_the_doors_and_stay_the_same(
    bootstrap: Bootstrap, tmp_path: Path, client: Client
) -> None:
    first = bootstrap()
    assert client.login(username=first["username"], password=first["password"])
    assert client.get("/admin/").status_code == 200
    assert client.get("/api/clusters", headers={"authorization": f"Bearer {first['api_key']}"}).status_code == 200
    assert (tmp_path / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert bootstrap() == first
    assert User.objects.count() == ApiKey.objects.count() == 1


def test_a_revoked_key_is_replaced(bootstrap: Bootstrap) -> None:
    first = bootstrap()
    revoke_key(key_id=ApiKey.objects.get().pk, now=timezone.now())
    second = bootstrap()
    assert second["password"] == first["password"]
    assert find_live_key(second["api_key"], now=timezone.now())
    assert bootstrap() == second


def test_a_password_that_a_person_chose_stays_and_is_not_shown(bootstrap: Bootstrap) -> None:
    bootstrap()
    user = User.objects.get()
    user.set_password("chosen by a person")
    user.save()
    assert bootstrap()["password"] == CHANGED
    assert bootstrap()["password"] == CHANGED
    assert User.objects.get().check_password("chosen by a person")


def test_a_lost_file_is_made_again(bootstrap: Bootstrap, tmp_path: Path, client: Client) -> None:
    bootstrap()
    (tmp_path / "credentials.json").unlink()
    again = bootstrap()
    assert client.login(username=again["username"], password=again["password"])


def test_a_database_with_other_things_in_it_gets_no_demo_and_it_is_said(tmp_path: Path) -> None:
    make_tenant()
    out = io.StringIO()
    call_command("bootstrap", state=tmp_path, demo=True, stdout=out)
    first, second, third = out.getvalue().splitlines()
    assert first == "migrating the database"
    assert second.startswith("seeding the demo")
    assert third == "demo: not seeded, since the database holds other clusters or tenants; nothing changed"
    assert not (tmp_path / "demo.json").exists()
