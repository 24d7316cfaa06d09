"""Fixtures that most of the agent's tests begin with."""

from typing import Any

import pytest

from tests.fleet import Fleet, make_fleet


@pytest.fixture
def fleet(live_server: Any, transactional_db: None) -> Fleet:
    """A cluster without nodes on a live server."""
    return make_fleet(live_server.url)
