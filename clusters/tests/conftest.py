import threading
from collections.abc import Iterator

import pytest
import time_machine
from django.conf import LazySettings
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_admin_key, make_key
from clusters.tests.factories import NOW
from clusters.tests.receivers import Receiver


@pytest.fixture
def noon() -> Iterator[time_machine.Traveller]:
    """The API reads the clock; here it stands at noon, when the factories' rows were made."""
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


@pytest.fixture
def admin(noon: time_machine.Traveller) -> APIClient:
    """A client that may do everything."""
    return client_with(make_admin_key())


@pytest.fixture
def charlie(noon: time_machine.Traveller) -> APIClient:
    """Charlie, who reads and writes the whole fleet."""
    return client_with(make_key())


@pytest.fixture
def receiver(settings: LazySettings) -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings.REMOTE_WRITE_URL = f"http://127.0.0.1:{server.server_port}/api/v1/write"
        yield server
        server.shutdown()
