"""Nobody gives what he has not."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from gpufleet.common.models import AuditEntry

pytestmark = pytest.mark.django_db
USERS, GROUPS = "/admin/auth/user/", "/admin/auth/group/"
PASSPHRASE = "a long enough passphrase"


def person(name: str, *groups: str, **values: Any) -> User:
    user = User.objects.create_user(name, password=PASSPHRASE, is_staff=True, **values)
    user.groups.set(Group.objects.filter(name__in=groups))
    return user


@pytest.fixture
def ada() -> Client:
    """An administrator who is no superuser."""
    client = Client()
    client.force_login(person("ada", "administrator"))
    return client


@pytest.fixture
def foreign() -> Permission:
    """What no administrator has."""
    return Permission.objects.get(content_type__app_label="sessions", codename="delete_session")


def edit(client: Client, user: User, **values: Any) -> Any:
    form = {
        "username": user.username,
        "is_active": "on",
        "is_staff": "on",
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
    }
    return client.post(f"{USERS}{user.pk}/change/", {**form, **values})


def test_an_administrator_makes_users_and_gives_them_groups(ada: Client) -> None:
    form = {"username": "bea", "usable_password": "true", "password1": PASSPHRASE, "password2": PASSPHRASE}
    assert ada.post(f"{USERS}add/", form).status_code == 302
    bea = User.objects.get(username="bea")
    groups = [Group.objects.get(name=name).pk for name in ("operator", "administrator")]
    assert edit(ada, bea, groups=groups).status_code == 302
    assert bea.groups.count() == 2
    added, edited = AuditEntry.objects.order_by("pk")
    assert (added.action, added.actor, added.name, added.model) == ("add", "user:ada", "bea", "auth.user")
    assert edited.after is not None
    assert sorted(edited.after["groups"]) == [f"administrator ({groups[1]})", f"operator ({groups[0]})"]
    assert PASSPHRASE not in str(AuditEntry.objects.values_list("before", "after"))


def test_an_administrator_makes_no_superuser(ada: Client) -> None:
    for user in (person("bea"), User.objects.get(username="ada")):
        assert 'name="is_superuser"' not in ada.get(f"{USERS}{user.pk}/change/").content.decode()
        assert edit(ada, user, is_superuser="on").status_code == 403
        user.refresh_from_db()
        assert not user.is_superuser


def test_an_administrator_gives_no_permission_that_he_has_not(ada: Client, foreign: Permission) -> None:
    beyond = Group.objects.create(name="janitors")
    beyond.permissions.add(foreign)
    bea = person("bea")
    page = ada.get(f"{USERS}{bea.pk}/change/").content.decode()
    assert ("janitors" in page, "Can delete session" in page, "Can drain" in page) == (False, False, False)
    for given in ({"user_permissions": [foreign.pk]}, {"groups": [beyond.pk]}):
        answer = edit(ada, bea, **given)
        assert answer.status_code == 200
        assert "Select a valid choice" in answer.content.decode()
    assert not bea.groups.exists()
    assert not bea.user_permissions.exists()
    viewer = Group.objects.get(name="viewer")
    before = viewer.permissions.count()
    answer = ada.post(f"{GROUPS}{viewer.pk}/change/", {"name": "viewer", "permissions": [foreign.pk]})
    assert "Select a valid choice" in answer.content.decode()
    assert viewer.permissions.count() == before
    assert ada.post(f"{GROUPS}add/", {"name": "mine", "permissions": [foreign.pk]}).status_code == 200
    assert not Group.objects.filter(name="mine").exists()


@pytest.mark.parametrize("more", ["superuser", "permission", "group", "inactive"])
def test_whoever_may_do_more_is_out_of_an_administrators_reach(ada: Client, foreign: Permission, more: str) -> None:
    boss = person("boss", is_superuser=more == "superuser", is_active=more != "inactive")
    group = Group.objects.create(name="janitors")
    group.permissions.add(foreign)
    if more == "group":
        boss.groups.add(group)
    elif more != "superuser":
        boss.user_permissions.add(foreign)
    password = boss.password
    form = {"password1": "another long passphrase", "password2": "another long passphrase", "usable_password": "true"}
    for answer in (
        ada.post(f"{USERS}{boss.pk}/password/", form),
        edit(ada, boss, username="mine"),
        ada.post(f"{USERS}{boss.pk}/delete/", {"post": "yes"}),
        ada.post(f"{GROUPS}{group.pk}/change/", {"name": "mine"}),
        ada.post(f"{GROUPS}{group.pk}/delete/", {"post": "yes"}),
    ):
        assert answer.status_code == 403
    ada.post(USERS, {"action": "delete_selected", "_selected_action": [boss.pk], "post": "yes"})
    boss.refresh_from_db()
    assert (boss.username, boss.password, Group.objects.filter(name="janitors").exists()) == ("boss", password, True)
    assert not AuditEntry.objects.exists()


def test_a_superuser_may_do_all_of_it_and_it_is_in_the_audit_log(foreign: Permission) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    bea = person("bea")
    assert edit(client, bea, is_superuser="on", user_permissions=[foreign.pk]).status_code == 302
    bea.refresh_from_db()
    assert bea.is_superuser
    form = {"password1": "another long passphrase", "password2": "another long passphrase", "usable_password": "true"}
    assert client.post(f"{USERS}{bea.pk}/password/", {**form, "set-password": "1"}).status_code == 302
    assert client.post(f"{USERS}{bea.pk}/delete/", {"post": "yes"}).status_code == 302
    edited, password, deleted = AuditEntry.objects.order_by("pk")
    assert edited.after is not None
    assert password.after is not None
    assert (edited.before["is_superuser"], edited.after["is_superuser"]) == (False, True)
    assert "another long" not in str(password.after)
    assert set(password.after.values()) == {"was set"}
    assert (deleted.action, deleted.actor, deleted.name) == ("delete", "user:root", "bea")
