"""Readers of the process environment: the only place that knows the variables' names and forms."""

from urllib.parse import parse_qs, urlsplit

import environ

env = environ.Env()


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
