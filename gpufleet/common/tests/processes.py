"""What tests with processes of their own share."""

import time
from collections.abc import Callable
from urllib.parse import quote

from django.db import connection

PATIENCE_SECONDS = 60


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look until it is so. Fails after a minute."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.001)


def database_url(suffix: str = "") -> str:
    """The test database's own URL, for another process; with a suffix that of another one on its server."""
    values = connection.settings_dict
    host = values["OPTIONS"].get("host") or values["HOST"]
    return f"postgres://{values['USER']}:{quote(values['PASSWORD'])}@/{values['NAME']}{suffix}?host={host}"
