"""Logging in to the console: whoever fails too often is locked out for a while.

A dozen lines on the cache that we have rather than django-axes, whose tables, middleware and backend do the same for
more cases than there are here. As with the rate limits, nobody is locked out while Redis is away.
"""

import hashlib
from datetime import timedelta
from typing import Any, Final

import structlog
from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from redis import RedisError
from rest_framework.throttling import BaseThrottle
from unfold.forms import AuthenticationForm

logger = structlog.stdlib.get_logger(__name__)

LOCKED_FOR: Final = timedelta(minutes=15)
# Failures of one name from one address, and of any name from one address.
MOST_OF_NAME: Final = 5
MOST_OF_ADDRESS: Final = 30
TURNED_OFF: Final = "Passwords are turned off here: log in with single sign-on."
LOCKED: Final = f"Too many failed logins. Try again in {LOCKED_FOR.seconds // 60} minutes."


class LockingForm(AuthenticationForm):  # type: ignore[misc]  # unfold is untyped
    """The login form; a right password does not help whoever is locked out."""

    def clean(self) -> Any:
        """Refuse the locked, and count the failed; and everybody where passwords are turned off."""
        if not settings.PASSWORD_LOGIN:
            raise ValidationError(TURNED_OFF, code="turned_off")
        counters = _counters(self.request, self.cleaned_data.get("username") or "")
        if any(_count(name) >= most for name, most in counters.items()):
            logger.warning("a login is locked out", username=self.cleaned_data.get("username"))
            raise ValidationError(LOCKED, code="locked")
        try:
            cleaned = super().clean()
        except ValidationError:
            for name in counters:
                _add_to(name)
            raise
        _forget(next(iter(counters)))
        return cleaned


def _counters(request: HttpRequest, username: str) -> dict[str, int]:
    """The counters that a login is under, with how many failures each takes; that of the name first."""
    address = str(BaseThrottle().get_ident(request))  # type: ignore[arg-type]  # any request has META
    of_name = hashlib.sha256(f"{username.casefold()} {address}".encode()).hexdigest()
    of_address = hashlib.sha256(address.encode()).hexdigest()
    return {f"login:{of_name}": MOST_OF_NAME, f"login:{of_address}": MOST_OF_ADDRESS}


def _count(name: str) -> int:
    try:
        return int(cache.get(name, 0))
    except RedisError as error:
        logger.warning("logins are not counted while Redis is away", error=str(error))
        return 0


def _add_to(name: str) -> None:
    try:
        cache.add(name, 0, timeout=LOCKED_FOR.seconds)
        cache.incr(name)
    except (RedisError, ValueError) as error:  # ValueError: it expired between the two.
        logger.warning("a failed login was not counted", error=str(error))


def _forget(name: str) -> None:
    try:
        cache.delete(name)
    except RedisError as error:
        logger.warning("failed logins were not forgotten", error=str(error))
