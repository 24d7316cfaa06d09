"""The tests of this app choose what the jobs app would answer; jobs tests its own answers."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tenants import queries
from tenants.queries import TenantWorkload


@dataclass
class Jobs:
    """What the jobs app says of each tenant."""

    workload: dict[int, TenantWorkload] = field(default_factory=dict)
    history: set[int] = field(default_factory=set)
    asked: list[list[int]] = field(default_factory=list)


@pytest.fixture(autouse=True)
def jobs() -> Iterator[Jobs]:
    said = Jobs()

    def workload(ids: object) -> dict[int, TenantWorkload]:
        said.asked.append(list(ids))  # type: ignore[call-overload]
        return said.workload

    with queries.tenant_workload.stand_in(workload), queries.has_history.stand_in(said.history.__contains__):
        yield said
