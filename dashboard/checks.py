"""Settings of the console's logins that can't be meant so. Django says them before anything starts."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

NEEDED = ("OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET")
GROUPS = ("operator", "finance", "viewer", "administrator")
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
LIBRARY = "mozilla_django_oidc"


@register("security")
def check_logins(**kwargs: Any) -> list[CheckMessage]:
    """Single sign-on is set whole or not at all, and somebody can log in."""
    messages: list[CheckMessage] = list(_of_single_sign_on()) if any(map(_is_set, NEEDED)) else []
    if not settings.PASSWORD_LOGIN and not settings.SINGLE_SIGN_ON:
        hint = "Set PASSWORD_LOGIN=true, or single sign-on."
        messages.append(Error("Nobody can log in to the console.", hint=hint, id="gpufleet.E005"))
    return messages


def _of_single_sign_on() -> Iterator[CheckMessage]:
    missing = [name for name in NEEDED if not _is_set(name)]
    if missing:
        yield Error(f"Single sign-on is half set: {' and '.join(missing)} missing.", id="gpufleet.E001")
    if find_spec(LIBRARY) is None:
        hint = "pip install -r requirements-oidc.txt"
        yield Error("Single sign-on is set, and its library is not installed.", hint=hint, id="gpufleet.E002")
    unknown = sorted({ours for ours in settings.OIDC_GROUPS.values() if ours not in GROUPS})
    if unknown:
        said = f"OIDC_GROUPS names groups that do not exist here: {', '.join(unknown)}."
        yield Error(said, hint=f"There are {', '.join(GROUPS)}.", id="gpufleet.E003")
    address = urlsplit(settings.OIDC_ISSUER)
    if _is_set("OIDC_ISSUER") and address.scheme != "https" and address.hostname not in ("localhost", "127.0.0.1"):
        yield Error("OIDC_ISSUER is no https:// address: anybody in between could log in.", id="gpufleet.E004")
    if settings.OIDC_SIGN_ALGORITHM not in ALGORITHMS:
        said = f"OIDC_SIGN_ALGORITHM is {settings.OIDC_SIGN_ALGORITHM!r}, and not one with a public key."
        yield Error(said, hint=f"One of {', '.join(ALGORITHMS)}.", id="gpufleet.E006")


def _is_set(name: str) -> bool:
    return bool(getattr(settings, name))
