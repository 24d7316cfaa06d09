"""Single sign-on against a provider that keeps the rules, and against tokens that break them."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from django.contrib.auth.models import User
from django.core.checks import Error
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from clusters.tests.factories import make_node
from dashboard.checks import check_logins
from dashboard.single_sign_on import REFUSED
from dashboard.tests.openid import CLIENT_ID, CLIENT_SECRET, KEY, OTHER_KEY, Provider, provider

pytestmark = pytest.mark.django_db

JOBS = "/admin/jobs/job/"


@pytest.fixture
def op(settings: Settings) -> Iterator[Provider]:
    """The provider, set up here; ``gpu-ops`` are our operators, ``board`` our viewers."""
    with provider() as served:
        settings.OIDC_ISSUER, settings.OIDC_CLIENT_ID, settings.OIDC_CLIENT_SECRET = (
            served.issuer,
            CLIENT_ID,
            CLIENT_SECRET,
        )
        settings.OIDC_GROUPS = {"gpu-ops": "operator", "board": "viewer"}
        settings.SINGLE_SIGN_ON = True
        settings.AUTHENTICATION_BACKENDS = [
            *settings.AUTHENTICATION_BACKENDS,
            "dashboard.single_sign_on.SingleSignOn",
        ]
        yield served


def leave(client: Client, to: str = JOBS) -> str:
    """To the provider, and with its answer: the address that it sends the person back to."""
    away = client.get(reverse("admin:sso"), {"next": to})
    assert away.status_code == 302
    return str(httpx.get(away.headers["Location"]).headers["Location"])


def sign_on(client: Client, to: str = JOBS) -> str:
    """The whole way; where it ends."""
    back = client.get(leave(client, to).removeprefix("http://testserver"))
    assert back.status_code == 302, back.content
    return str(back.headers["Location"])


def refused(client: Client) -> bool:
    """Sent back to the login, which says so, and nobody."""
    ends = sign_on(client)
    return (
        ends == reverse("admin:login")
        and REFUSED in client.get(ends).content.decode()
        and client.get(JOBS).status_code == 302
    )


def test_a_person_of_a_known_group_is_in_and_may_what_the_group_may(op: Provider, client: Client) -> None:
    op.claims = {"sub": "u-1", "preferred_username": "ada", "email": "ada@acme.example", "groups": ["gpu-ops", "gym"]}
    assert sign_on(client) == JOBS
    user = User.objects.get()
    assert user.username.startswith("ada+")
    assert (user.email, user.is_staff, user.is_superuser) == ("ada@acme.example", True, False)
    assert not user.has_usable_password()
    assert [group.name for group in user.groups.all()] == ["operator"]
    assert client.get(JOBS).status_code == 200
    assert user.has_perm("jobs.change_job")
    assert not user.has_perm("billing.change_invoice")
    assert op.refusals == []


def test_who_comes_again_is_the_same_person_with_the_groups_of_now(op: Provider, client: Client) -> None:
    sign_on(client)
    op.claims = {"sub": "u-1", "preferred_username": "lovelace", "groups": ["board"]}
    sign_on(Client())
    user = User.objects.get()
    assert [group.name for group in user.groups.all()] == ["viewer"]
    op.claims = {"sub": "u-2", "preferred_username": "ada", "groups": ["board"]}
    sign_on(Client())
    assert User.objects.count() == 2


def test_nobody_becomes_somebody_by_a_name_or_an_address(op: Provider, client: Client) -> None:
    chief = User.objects.create_superuser("chief", email="chief@acme.example", password="x")
    op.claims = {"sub": "u-9", "preferred_username": "chief", "email": "chief@acme.example", "groups": ["board"]}
    sign_on(client)
    assert int(client.session["_auth_user_id"]) != chief.pk


@pytest.mark.parametrize("groups", [None, [], ["gym"], "gym", ["operator"], [{"name": "gpu-ops"}]])
def test_who_has_no_known_group_is_refused(op: Provider, client: Client, groups: Any) -> None:
    op.claims = {"sub": "u-1", "preferred_username": "ada", "groups": groups}
    assert refused(client)
    assert User.objects.count() == 0


def test_who_loses_all_groups_there_loses_them_here(op: Provider, client: Client) -> None:
    sign_on(client)
    op.claims = {"sub": "u-1", "preferred_username": "ada", "groups": ["gym"]}
    assert refused(Client())
    assert User.objects.get().groups.count() == 0
    assert client.get(JOBS).status_code == 403


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": [CLIENT_ID, "another"], "azp": "another"},
        {"iss": "https://evil.example"},
        {"exp": int(time.time()) - 120},
        {"exp": None},
        {"aud": None},
        {"sub": None},
        {"iat": int(time.time()) + 3600},
    ],
    ids=[
        "nonce",
        "no nonce",
        "audience",
        "azp",
        "issuer",
        "expired",
        "no exp",
        "no audience",
        "no subject",
        "issued later",
    ],
)
def test_a_token_that_is_not_for_us_now_is_refused(op: Provider, client: Client, wrong: dict[str, Any]) -> None:
    op.wrong = wrong
    assert refused(client)
    assert User.objects.count() == 0


def test_a_token_of_another_key_is_refused(op: Provider, client: Client) -> None:
    op.key = OTHER_KEY
    assert refused(client)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS512"])
def test_a_token_that_is_signed_in_another_way_is_refused(op: Provider, client: Client, algorithm: str) -> None:
    op.algorithm = algorithm
    op.key = {"none": None, "HS256": CLIENT_SECRET, "RS512": KEY}[algorithm]
    assert refused(client)


def test_a_state_is_good_once_and_in_its_own_session(op: Provider, client: Client) -> None:
    back = leave(client).removeprefix("http://testserver")
    login = reverse("admin:login")
    assert Client().get(back).headers["Location"] == login
    other = Client()
    leave(other)
    assert other.get(back).headers["Location"] == login
    assert client.get(back.replace("state=", "state=x")).headers["Location"] == login
    assert client.get(back).headers["Location"] == JOBS
    assert client.get(back).headers["Location"] == login


def test_the_provider_may_say_no(op: Provider, client: Client) -> None:
    leave(client)
    answer = client.get(reverse("admin:sso_callback"), {"error": "access_denied", "state": "x"})
    assert answer.headers["Location"] == reverse("admin:login")


def test_it_leads_nowhere_else(op: Provider, client: Client) -> None:
    assert sign_on(client, to="https://evil.example/") == reverse("admin:index")


def test_groups_may_be_at_the_user_endpoint_which_speaks_of_the_same_person(op: Provider, client: Client) -> None:
    op.wrong = {"groups": None}
    assert sign_on(client) == JOBS
    op.more = {"sub": "u-2"}
    assert refused(Client())


def test_an_account_that_is_turned_off_stays_out(op: Provider, client: Client) -> None:
    sign_on(client)
    User.objects.update(is_active=False)
    assert refused(Client())


def test_a_provider_that_is_away_or_speaks_for_another_is_no_error(op: Provider, settings: Settings) -> None:
    client = Client()
    settings.OIDC_ISSUER = "http://127.0.0.1:9"
    assert client.get(reverse("admin:sso")).headers["Location"] == reverse("admin:login")
    settings.OIDC_ISSUER = op.issuer + "/"
    assert client.get(reverse("admin:sso")).headers["Location"] == reverse("admin:login")
    sign_on_page = client.get(reverse("admin:login")).content.decode()
    assert REFUSED in sign_on_page


def test_passwords_may_be_turned_off(op: Provider, settings: Settings, client: Client) -> None:
    User.objects.create_superuser("charlie", password="a-long-passphrase")
    form = {"username": "charlie", "password": "a-long-passphrase", "next": "/admin/"}
    assert "Log in with single sign-on" in client.get(reverse("admin:login")).content.decode()
    settings.PASSWORD_LOGIN = False
    page = client.post(reverse("admin:login"), form).content.decode()
    assert "Passwords are turned off here" in page
    assert 'name="password"' not in page
    settings.PASSWORD_LOGIN = True
    assert client.post(reverse("admin:login"), form).headers["Location"] == "/admin/"


def test_the_button_keeps_where_the_person_wanted_to_go(op: Provider, client: Client) -> None:
    page = client.get(f"{reverse('admin:login')}?next={JOBS}").content.decode()
    (query,) = [part.split('"')[0] for part in page.split('href="') if part.startswith(reverse("admin:sso"))]
    assert parse_qs(urlsplit(query).query) == {"next": [JOBS]}


def test_without_a_provider_there_is_neither_button_nor_route(client: Client) -> None:
    assert "single sign-on" not in client.get(reverse("admin:login")).content.decode()
    assert client.get(reverse("admin:sso")).status_code == 404
    assert client.get(reverse("admin:sso_callback"), {"code": "x", "state": "y"}).status_code == 404


def test_the_groups_rule_what_a_person_may_post(op: Provider, client: Client) -> None:
    op.claims = {"sub": "u-1", "groups": ["board"]}
    sign_on(client)
    node = make_node()
    form = {"action": "drain", "_selected_action": [node.pk], "index": 0}
    client.post("/admin/clusters/node/", form)
    node.refresh_from_db()
    assert node.status == "online"


def ids(messages: list[Any]) -> list[str]:
    assert all(isinstance(message, Error) for message in messages)
    return [message.id.removeprefix("gpufleet.") for message in messages]


def test_half_set_variables_are_an_error_that_names_them(settings: Settings) -> None:
    assert check_logins() == []
    settings.OIDC_ISSUER = "https://id.example"
    (error,) = check_logins()
    assert error.id == "gpufleet.E001"
    assert "OIDC_CLIENT_ID and OIDC_CLIENT_SECRET missing" in error.msg


def test_a_setting_that_can_not_be_meant_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.OIDC_ISSUER, settings.OIDC_CLIENT_ID, settings.OIDC_CLIENT_SECRET = "https://id.example", "x", "y"
    assert ids(check_logins()) == []
    settings.OIDC_GROUPS = {"gpu-ops": "operators"}
    settings.OIDC_SIGN_ALGORITHM = "HS256"
    settings.OIDC_ISSUER = "http://id.example"
    assert ids(check_logins()) == ["E003", "E004", "E006"]
    settings.PASSWORD_LOGIN = False
    assert ids(check_logins()) == ["E003", "E004", "E006", "E005"]


def test_a_library_that_is_not_installed_is_an_error_that_says_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.OIDC_ISSUER, settings.OIDC_CLIENT_ID, settings.OIDC_CLIENT_SECRET = "https://id.example", "x", "y"
    monkeypatch.setattr("dashboard.checks.find_spec", lambda name: None)
    (error,) = check_logins()
    assert (error.id, error.hint) == ("gpufleet.E002", "pip install -r requirements-oidc.txt")
