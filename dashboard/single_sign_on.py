"""Logging in to the console through an OpenID Connect provider: the authorization code flow of mozilla-django-oidc.

The library keeps state and nonce, proves the code with PKCE and checks signatures. Ours is what it leaves open: the
endpoints come from the issuer's discovery document, the ID token must be of this issuer, for this client and in force,
and who somebody is, is the issuer's ``sub`` and nothing that a person can choose. What somebody may do are the groups
of a claim, mapped to ours at each login; whoever has none of them is refused.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt
import requests
import structlog
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import AbstractUser, Group, User
from django.core.exceptions import ImproperlyConfigured, SuspiciousOperation
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from mozilla_django_oidc.auth import OIDCAuthenticationBackend
from mozilla_django_oidc.views import OIDCAuthenticationCallbackView, OIDCAuthenticationRequestView

logger = structlog.stdlib.get_logger(__name__)

REFUSED: Final = "The single sign-on was refused. Ask an administrator whether your account has a group here."
TIMEOUT_SECONDS: Final = 10
DISCOVERED_FOR_SECONDS: Final = 3600
CLOCKS_DIFFER_BY_SECONDS: Final = 30
ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_discovered: dict[str, tuple[float, Mapping[str, Any]]] = {}


def provider() -> Mapping[str, Any]:
    """The issuer's discovery document, asked for once an hour. Raises ``SuspiciousOperation``."""
    issuer: str = settings.OIDC_ISSUER
    asked_at, known = _discovered.get(issuer, (0.0, {}))
    if known and time.monotonic() - asked_at < DISCOVERED_FOR_SECONDS:
        return known
    answer = requests.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", timeout=TIMEOUT_SECONDS)
    answer.raise_for_status()
    found: Mapping[str, Any] = answer.json()
    if found.get("issuer") != issuer or not all(found.get(name) for name in ENDPOINTS):
        raise SuspiciousOperation(f"{issuer} describes another issuer, or none of {', '.join(ENDPOINTS)}.")
    _discovered[issuer] = (time.monotonic(), found)
    return found


def _takes_basic_only() -> bool:
    """Whether the client's secret goes into the header: where the provider does not say, it must take that."""
    return "client_secret_post" not in provider().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])


# What the library asks its settings for; the rest are its own defaults.
SETTINGS: Mapping[str, Callable[[], Any]] = {
    "OIDC_OP_AUTHORIZATION_ENDPOINT": lambda: provider()["authorization_endpoint"],
    "OIDC_OP_TOKEN_ENDPOINT": lambda: provider()["token_endpoint"],
    "OIDC_OP_JWKS_ENDPOINT": lambda: provider()["jwks_uri"],
    "OIDC_OP_USER_ENDPOINT": lambda: provider().get("userinfo_endpoint", ""),
    "OIDC_RP_CLIENT_ID": lambda: settings.OIDC_CLIENT_ID,
    "OIDC_RP_CLIENT_SECRET": lambda: settings.OIDC_CLIENT_SECRET,
    "OIDC_RP_SIGN_ALGO": lambda: settings.OIDC_SIGN_ALGORITHM,
    "OIDC_RP_SCOPES": lambda: settings.OIDC_SCOPES,
    "OIDC_TOKEN_USE_BASIC_AUTH": _takes_basic_only,
    "OIDC_USE_PKCE": lambda: True,
    "OIDC_TIMEOUT": lambda: TIMEOUT_SECONDS,
    "OIDC_AUTHENTICATION_CALLBACK_URL": lambda: "admin:sso_callback",
    "LOGIN_REDIRECT_URL": lambda: settings.LOGIN_REDIRECT_URL,
}


def _setting(attr: str, *default: Any) -> Any:
    if attr in SETTINGS:
        return SETTINGS[attr]()
    if not default:
        raise ImproperlyConfigured(f"{attr} is not known here.")
    return default[0]


class SingleSignOn(OIDCAuthenticationBackend):  # type: ignore[misc]  # the library is untyped
    """Who comes back from the provider. Made anew for each request, so that it asks the provider nothing by itself."""

    get_settings = staticmethod(_setting)

    def __init__(self) -> None:
        self.UserModel = User
        self.OIDC_RP_CLIENT_ID = settings.OIDC_CLIENT_ID
        self.OIDC_RP_CLIENT_SECRET = settings.OIDC_CLIENT_SECRET
        self.OIDC_RP_SIGN_ALGO = settings.OIDC_SIGN_ALGORITHM
        self.OIDC_RP_IDP_SIGN_KEY = None

    @property
    def OIDC_OP_TOKEN_ENDPOINT(self) -> str:
        """Where the code is exchanged."""
        return str(_setting("OIDC_OP_TOKEN_ENDPOINT"))

    @property
    def OIDC_OP_JWKS_ENDPOINT(self) -> str:
        """Where the keys are."""
        return str(_setting("OIDC_OP_JWKS_ENDPOINT"))

    @property
    def OIDC_OP_USER_ENDPOINT(self) -> str:
        """Where more is known of somebody."""
        return str(_setting("OIDC_OP_USER_ENDPOINT"))

    def _verify_jws(self, payload: str, key: Any) -> dict[str, Any]:
        """The claims of an ID token that is signed by the key, of our issuer, for us alone, and in force."""
        claims: dict[str, Any] = jwt.decode(
            payload,
            key,
            algorithms=[self.OIDC_RP_SIGN_ALGO],
            audience=self.OIDC_RP_CLIENT_ID,
            issuer=settings.OIDC_ISSUER,
            leeway=CLOCKS_DIFFER_BY_SECONDS,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
        if claims.get("azp", self.OIDC_RP_CLIENT_ID) != self.OIDC_RP_CLIENT_ID:
            raise SuspiciousOperation("The ID token was made for another client.")
        return claims

    def get_userinfo(self, access_token: str, id_token: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The claims of the ID token, and those of the provider's user endpoint where they lack the groups."""
        if settings.OIDC_GROUPS_CLAIM in payload or not self.OIDC_OP_USER_ENDPOINT:
            return payload
        more: dict[str, Any] = super().get_userinfo(access_token, id_token, payload)
        if more.get("sub") != payload["sub"]:
            raise SuspiciousOperation("The user endpoint speaks of somebody else.")
        return {**more, **payload}

    def verify_claims(self, claims: Mapping[str, Any]) -> bool:
        """Whether the person has any group here; one who has lost them all loses them here too."""
        if groups_of(claims):
            return True
        for user in self.filter_users_by_claims(claims):
            user.groups.clear()
        logger.warning("a single sign-on has no group here", subject=claims["sub"])
        return False

    def filter_users_by_claims(self, claims: Mapping[str, Any]) -> Any:
        """The account that an earlier login made."""
        return User.objects.filter(username__endswith=_mark(claims["sub"]))

    @transaction.atomic
    def create_user(self, claims: Mapping[str, Any]) -> AbstractUser:
        """An account without a password, which is nobody's superuser."""
        user = User.objects.create_user(_username(claims), is_staff=True)
        logger.info("a single sign-on made an account", username=user.username)
        return self.update_user(user, claims)

    @transaction.atomic
    def update_user(self, user: User, claims: Mapping[str, Any]) -> User:
        """Name, address and groups as the provider has them now."""
        user.email = str(claims.get("email") or "")[:254]
        user.first_name = str(claims.get("given_name") or "")[:150]
        user.last_name = str(claims.get("family_name") or "")[:150]
        user.is_staff = True
        user.save(update_fields=["email", "first_name", "last_name", "is_staff"])
        user.groups.set(Group.objects.filter(name__in=groups_of(claims)))
        return user


def groups_of(claims: Mapping[str, Any]) -> set[str]:
    """Our groups that the provider's stand for; unknown ones stand for none."""
    theirs = claims.get(settings.OIDC_GROUPS_CLAIM) or []
    names = [theirs] if isinstance(theirs, str) else [name for name in theirs if isinstance(name, str)]
    return {settings.OIDC_GROUPS[name] for name in names if name in settings.OIDC_GROUPS}


def _mark(subject: str) -> str:
    """What the account's name ends in: the same for one subject of one issuer, whatever the person is called."""
    return "+" + hashlib.sha256(f"{settings.OIDC_ISSUER}\n{subject}".encode()).hexdigest()[:16]


def _username(claims: Mapping[str, Any]) -> str:
    """The name by which people know somebody, made one that Django takes, and the mark."""
    name = str(claims.get("preferred_username") or claims.get("email") or "sso").split("@")[0]
    return re.sub(r"[^\w.-]", "", name)[:60] + _mark(str(claims["sub"]))


class Leave(OIDCAuthenticationRequestView):  # type: ignore[misc]  # the library is untyped
    """To the provider."""

    get_settings = staticmethod(_setting)

    def __init__(self, **kwargs: Any) -> None:
        super(OIDCAuthenticationRequestView, self).__init__(**kwargs)
        self.OIDC_RP_CLIENT_ID = settings.OIDC_CLIENT_ID

    @property
    def OIDC_OP_AUTH_ENDPOINT(self) -> str:
        """Where people log in."""
        return str(_setting("OIDC_OP_AUTHORIZATION_ENDPOINT"))

    def get(self, request: HttpRequest) -> HttpResponse:
        """With a state, a nonce and a challenge of its own."""
        return _guarded(request, super().get)


class Return(OIDCAuthenticationCallbackView):  # type: ignore[misc]  # the library is untyped
    """Back from the provider."""

    get_settings = staticmethod(_setting)

    def get(self, request: HttpRequest) -> HttpResponse:
        """Logged in, or back at the login that says so."""
        return _guarded(request, super().get)

    def login_failure(self) -> HttpResponse:
        """At the login."""
        return _refuse(self.request)


def _guarded(request: HttpRequest, step: Callable[[HttpRequest], HttpResponse]) -> HttpResponse:
    """A step of the flow; whatever is wrong with it, a person is sent back to the login, and the log says why."""
    if not settings.SINGLE_SIGN_ON:
        raise Http404
    try:
        return step(request)
    except (SuspiciousOperation, jwt.PyJWTError, requests.RequestException, KeyError, ValueError) as error:
        logger.warning("a single sign-on was refused", reason=str(error), kind=type(error).__name__)
        return _refuse(request)


def _refuse(request: HttpRequest) -> HttpResponse:
    messages.error(request, REFUSED)
    return HttpResponseRedirect(reverse("admin:login"))
