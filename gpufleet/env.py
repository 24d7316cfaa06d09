"""Readers of the process environment: the only place that knows the variables' names and forms."""

import math
import re
from decimal import Decimal, InvalidOperation
from typing import Final
from urllib.parse import parse_qs, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

env = environ.Env()

DAY_S: Final = 24 * 60 * 60
MOST_DAYS: Final = 36_500


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


def whole(name: str, default: int, *, least: int = 1, most: int) -> int:
    """A variable that is a whole number from ``least`` to ``most``; empty: the default. Raises
    ``ImproperlyConfigured``."""
    text: str = env.str(name, default="").strip() or str(default)
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not least <= int(text) <= most:
        raise ImproperlyConfigured(f"{name} is a whole number from {least:,} to {most:,}, and not {text!r}.")
    return int(text)


def share(name: str, default: str) -> float:
    """A variable that is a share from 0 to 1; empty: the default. Raises ``ImproperlyConfigured``."""
    text: str = env.str(name, default="").strip() or default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ImproperlyConfigured(f"{name} is a number from 0 to 1, such as 0.1, and not {text!r}.")
    return value


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
