"""Statements that PostgreSQL parses and plans once for each connection, since that costs more than to run them."""

import weakref
from collections.abc import Mapping
from typing import Any

from django.db import connection


class Prepared:
    """One statement, with its parameters as ``%(name)s`` and the types of these, in SQL."""

    def __init__(self, name: str, sql: str, **types: str) -> None:
        numbers = {parameter: f"${number}" for number, parameter in enumerate(types, start=1)}
        places = ", ".join(f"%({parameter})s" for parameter in types)
        self._prepare = f"PREPARE {name} ({', '.join(types.values())}) AS {sql % numbers}"
        self._execute = f"EXECUTE {name} ({places})"
        self._known_to: weakref.WeakSet[Any] = weakref.WeakSet()

    def rows(self, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run it, and give what it returns."""
        with connection.cursor() as cursor:
            if connection.connection not in self._known_to:
                cursor.execute(self._prepare)
                self._known_to.add(connection.connection)
            cursor.execute(self._execute, parameters)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows
