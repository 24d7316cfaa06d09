from importlib import import_module

import pytest
from django.apps import apps as installed
from django.contrib.admin import site
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.test import Client
from django.urls import reverse

from clusters.models import Node
from clusters.tests.factories import make_node

pytestmark = pytest.mark.django_db

HOUSE = {"common", "tenants", "apikeys", "clusters", "jobs", "billing", "alerts"}


def may(group: str) -> set[str]:
    rows = Permission.objects.filter(group__name=group).values_list("content_type__app_label", "codename")
    return {f"{app}.{codename}" for app, codename in rows}


def staff(group: str) -> Client:
    user = User.objects.create_user(group, password="x", is_staff=True)
    user.groups.add(Group.objects.get(name=group))
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize("group", ["viewer", "operator", "finance", "administrator"])
def test_every_group_may_look_at_every_model_of_the_house(group: str) -> None:
    models = [model for model in installed.get_models() if model._meta.app_label in HOUSE]
    expected = {f"{model._meta.app_label}.view_{model._meta.model_name}" for model in models}
    assert expected - may(group) == set(), "a new model needs a migration in dashboard/migrations"


def test_a_viewer_may_only_look() -> None:
    assert {permission.split(".")[1].split("_")[0] for permission in may("viewer")} == {"view"}


def test_an_operator_changes_hardware_jobs_tenants_and_alerts_and_no_money() -> None:
    beyond = may("operator") - may("viewer")
    assert {"clusters.change_node", "clusters.change_gpu", "jobs.change_job", "tenants.change_tenant"} <= beyond
    assert {"alerts.change_alertrule", "alerts.change_alertevent"} <= beyond
    assert not [one for one in beyond if one.startswith(("billing.", "apikeys.", "auth.")) or ".delete_" in one]


def test_finance_changes_money_and_nothing_else() -> None:
    beyond = may("finance") - may("viewer")
    assert {"billing.add_rate", "billing.change_invoice"} <= beyond
    assert {one.split(".")[0] for one in beyond} == {"billing"}


def test_an_administrator_also_makes_users_and_keys() -> None:
    assert {"auth.add_user", "auth.change_group", "apikeys.add_apikey", "clusters.change_cluster"} <= may(
        "administrator"
    )


@pytest.mark.parametrize(("group", "status"), [("operator", "draining"), ("viewer", "online"), ("finance", "online")])
def test_the_server_lets_only_operators_drain_a_node(group: str, status: str) -> None:
    node = make_node()
    staff(group).post(
        reverse("admin:clusters_node_changelist"),
        {"action": "drain", "_selected_action": [node.pk], "index": 0, "agreed": "yes", "reason": "dust"},
    )
    assert Node.objects.get(pk=node.pk).status == status


@pytest.mark.parametrize(("group", "status"), [("operator", 200), ("viewer", 403), ("finance", 403)])
def test_an_action_that_a_person_may_not_run_is_refused_and_not_just_ignored(group: str, status: int) -> None:
    node = make_node()
    form = {"action": "drain", "_selected_action": [node.pk], "index": 0}
    assert staff(group).post(reverse("admin:clusters_node_changelist"), form).status_code == status


@pytest.mark.parametrize(("group", "status"), [("finance", 200), ("operator", 403), ("viewer", 403)])
def test_only_finance_adds_rates(group: str, status: int) -> None:
    assert staff(group).get(reverse("admin:billing_rate_add")).status_code == status


@pytest.mark.parametrize(("group", "status"), [("administrator", 200), ("operator", 403), ("finance", 403)])
def test_only_administrators_see_users(group: str, status: int) -> None:
    assert staff(group).get(reverse("admin:auth_user_changelist")).status_code == status


def test_every_registered_model_of_the_house_opens_for_a_viewer() -> None:
    client = staff("viewer")
    for model in site._registry:
        if model._meta.app_label in HOUSE:
            name = f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"
            assert client.get(reverse(name)).status_code == 200, name


def test_giving_the_groups_a_new_model_takes_nothing_from_them() -> None:
    extra = Permission.objects.get(codename="change_cluster")
    Group.objects.get(name="operator").permissions.add(extra)
    with connection.schema_editor() as editor:
        import_module("dashboard.migrations.0001_groups").add_groups(installed, editor)
    assert "clusters.change_cluster" in may("operator")


def test_the_migration_goes_back_and_forth() -> None:
    migration = import_module("dashboard.migrations.0001_groups")
    before = {group: may(group) for group in migration.GROUPS}
    custom = Group.objects.create(name="night shift")
    with connection.schema_editor() as editor:
        migration.remove_groups(installed, editor)
        assert list(Group.objects.all()) == [custom]
        migration.add_groups(installed, editor)
    assert {group: may(group) for group in migration.GROUPS} == before
