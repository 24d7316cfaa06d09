"""What the ledger is asked, and what it answers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum


class By(StrEnum):
    """What seconds are told apart by. Tenant and rate are known of sold seconds only."""

    CLUSTER = "cluster"
    MODEL = "model"
    NODE = "node"
    GPU = "gpu"
    DAY = "day"
    SEGMENT = "segment"
    TENANT = "tenant"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class Scope:
    """A window ``[start, end)`` of the ledger and a part of the fleet; None is all of it."""

    start: datetime
    end: datetime
    clusters: Collection[int] | None = None
    models: Collection[str] | None = None
    cuts: Collection[datetime] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Whose seconds these are. What was not asked for is None."""

    cluster_id: int | None = None
    model: str | None = None
    node_id: int | None = None
    gpu_id: int | None = None
    day: date | None = None
    segment: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """What GPU-time was spent on, in microseconds. ``registered`` is measured by itself, not summed."""

    group: Group
    registered: int = 0
    sold: int = 0
    could_have_run: int = 0
    fragmented: int = 0
    held_by_quota: int = 0
    no_demand: int = 0
    draining: int = 0
    maintenance: int = 0
    unhealthy: int = 0
    offline: int = 0

    @property
    def idle(self) -> int:
        """Available, and nobody's."""
        return self.could_have_run + self.fragmented + self.held_by_quota + self.no_demand


@dataclass(frozen=True, slots=True)
class Costly:
    """A GPU's time of one kind, in microseconds, and that time times its prices."""

    gpu_id: int
    microseconds: int
    worth: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """The GPUs that spent the costliest time on one kind, in order, and how many spent any."""

    gpus: int = 0
    largest: Sequence[Costly] = ()


@dataclass(frozen=True, slots=True)
class Unsold:
    """The accounts by segment and model, and of each kind of unsold time the GPUs behind it; see ``unsold``."""

    accounts: Sequence[Account]
    rankings: Mapping[str, Ranking]


@dataclass(frozen=True, slots=True)
class Sold:
    """GPU-time that was held, in microseconds, and at what locked price; None: the model had none, or not asked."""

    group: Group
    tenant_id: int | None
    rate_id: int | None
    price_per_gpu_hour: Decimal | None
    currency: str
    held: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of a window within one segment and, where days are told apart, within one UTC day."""

    start: datetime
    end: datetime
    segment: int

    @property
    def day(self) -> date:
        """The UTC day in which it begins."""
        return self.start.date()

    @property
    def is_whole_day(self) -> bool:
        """From one UTC midnight to the next."""
        return self.start.time() == time.min and self.end - self.start == timedelta(days=1)
