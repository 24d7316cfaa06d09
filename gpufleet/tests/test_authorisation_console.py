"""The console's part of the authorisation table: each model's pages, as each group of people, strangers and keys."""

import re
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

from apikeys.tests.factories import client_with, make_admin_key
from gpufleet.tests.authorisation_table import CONSOLE, CONSOLE_DOORS, CONSOLE_PAGES, PEOPLE, ModelRow
from gpufleet.tests.authorisation_world import make_world

pytestmark = pytest.mark.django_db

OF_MODELS = re.compile(r"[a-z]+_[a-z]+_(changelist|add|change|delete|history)")


@pytest.fixture
def people() -> dict[str, Client]:
    """A session of each group."""
    make_world(timezone.now())
    clients = {}
    for group in PEOPLE.split():
        person, _ = User.objects.get_or_create(username=group, defaults={"is_staff": True})
        person.groups.add(Group.objects.get(name=group))
        clients[group] = Client()
        clients[group].force_login(person)
    return clients


def pages_of(row: ModelRow) -> list[tuple[str, str, str]]:
    """Method, address and the groups that may, of each page of a model."""
    model = apps.get_model(row.model)
    some = model._default_manager.order_by("pk").first()
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    pages = [("get", reverse(f"{name}_changelist"), row.view), ("get", reverse(f"{name}_add"), row.add)]
    if some is not None:
        pages += [
            ("get", reverse(f"{name}_change", args=[some.pk]), row.view),
            ("post", reverse(f"{name}_change", args=[some.pk]), row.change),
            ("get", reverse(f"{name}_history", args=[some.pk]), row.view),
            ("get", reverse(f"{name}_delete", args=[some.pk]), row.delete),
            ("post", reverse(f"{name}_delete", args=[some.pk]), row.delete),
        ]
    return pages


def ask(client: Client, method: str, address: str) -> Any:
    with transaction.atomic():
        answer = getattr(client, method)(address)
        transaction.set_rollback(True)
    return answer


@pytest.mark.parametrize("row", CONSOLE, ids=lambda row: row.model)
def test_each_group_opens_its_pages_and_no_others(people: dict[str, Client], row: ModelRow) -> None:
    for method, address, may in pages_of(row):
        opened = {group for group, client in people.items() if ask(client, method, address).status_code != 403}
        assert opened == set(may.split()), (method, address)


@pytest.mark.parametrize("row", CONSOLE, ids=lambda row: row.model)
def test_strangers_and_keys_are_sent_to_log_in(people: dict[str, Client], row: ModelRow) -> None:
    for client in (Client(), client_with(make_admin_key())):
        for method, address, _ in pages_of(row):
            answer = ask(client, method, address)
            assert (answer.status_code, answer["Location"].split("?")[0]) == (302, reverse("admin:login"))


def test_every_model_of_the_console_has_its_row_and_the_other_way_round() -> None:
    rows = [row.model for row in CONSOLE]
    assert set(rows) == {model._meta.label for model in admin.site._registry}
    assert len(rows) == len(set(rows))


def test_every_other_page_is_for_people_with_a_session() -> None:
    names = {name for name in _names(get_resolver().url_patterns, "/") if not OF_MODELS.fullmatch(name)}
    assert names == CONSOLE_PAGES | CONSOLE_DOORS
    arguments: dict[str, list[Any]] = {"app_list": ["jobs"], "view_on_site": [1, 1], "auth_user_password_change": [1]}
    arguments |= {name: [1] for name in ("live_cluster", "live_explanation", "live_metrics")}
    arguments |= {name: ["billed"] for name in ("leakage_rows", "live_leakage_rows")}
    arguments |= {name: [1] for name in CONSOLE_PAGES if name.startswith(("billing_invoice_", "common_bulkrun_"))}
    for name in CONSOLE_PAGES:
        answer = Client().get(reverse(f"admin:{name}", args=arguments.get(name)))
        to_login = answer.get("Location") or answer.get("HX-Redirect") or ""
        assert to_login.startswith(reverse("admin:login")), name


def _names(patterns: list[URLPattern | URLResolver], prefix: str) -> set[str]:
    names: set[str] = set()
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            names |= _names(pattern.url_patterns, path)
        elif path.startswith("/admin/") and pattern.name:
            names.add(pattern.name)
    return names
