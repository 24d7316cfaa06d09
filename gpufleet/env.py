"""Readers of the process environment: the only place that knows the variables' names and forms."""

from decimal import Decimal, InvalidOperation
from urllib.parse import parse_qs, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

env = environ.Env()


def percent(name: str, default: str) -> str:
    """A variable that is a percentage from 0 to 100, as it was written. Raises ``ImproperlyConfigured``."""
    text: str = env.str(name, default=default).strip() or default
    try:
        in_range = 0 <= Decimal(text) <= 100
    except InvalidOperation:
        in_range = False
    if not in_range:
        raise ImproperlyConfigured(f"{name} is a number from 0 to 100, such as 19 or 7.5, and not {text!r}.")
    return text


def pairs(name: str, default: str) -> dict[str, str]:
    """A variable like ``ours:theirs,ours:others`` as theirs to ours; empty: the default. Raises
    ``ImproperlyConfigured``."""
    found: dict[str, str] = {}
    for pair in (env.str(name, default="") or default).split(","):
        ours, colon, theirs = pair.strip().partition(":")
        if not (ours and colon and theirs):
            raise ImproperlyConfigured(f"{name} is pairs such as operator:gpu-ops,finance:billing, and not {pair!r}.")
        found[theirs] = ours
    return found


def celery_url(redis_url: str) -> str:
    """The broker URL for Celery of a Redis URL as redis-py takes it.

    The two agree on ``redis://`` and ``rediss://``; for a Unix socket redis-py says ``unix:///path?db=0``
    where kombu says ``redis+socket:///path?virtual_host=0``.
    """
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={database}"
