"""More databases on the tests' server."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from django.db import connection
from psycopg import sql

from gpufleet.common.tests.processes import database_url


@contextmanager
def empty_databases(*suffixes: str) -> Iterator[None]:
    """New ones for a while, named as the tests' own with these suffixes."""
    names = [sql.Identifier(f"{connection.settings_dict['NAME']}{suffix}") for suffix in suffixes]
    with psycopg.connect(database_url(), autocommit=True) as server:
        for name in names:
            server.execute(sql.SQL("CREATE DATABASE {}").format(name))
        yield
        for name in names:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
