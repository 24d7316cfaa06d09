"""What every type of rule is made of."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import ClassVar

from alerts.conditions import Condition, Direction
from alerts.models import AlertRule, RuleType
from alerts.types.past import Points, Window


@dataclass(frozen=True, slots=True)
class Place:
    """Where a subject is and whose: what scopes, routes, maintenance and inhibition go by."""

    cluster_id: int | None = None
    node_id: int | None = None
    tenant_id: int | None = None
    gpu_model: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """A subject and its value now; ``None`` when there is no fresh data. ``hourly``: what the trouble costs an hour."""

    subject: str
    name: str
    value: float | None
    place: Place = Place()
    hourly: Decimal | None = None
    currency: str = ""


def id_in(subject: str) -> int:
    """The row that a subject such as ``job:7`` is about."""
    return int(subject.partition(":")[2])


class AlertType(ABC):
    """One thing to watch: a set-based query that reads all subjects at once, on which side the trouble is, the
    sentence about it, and what to do. ``scopes`` are the fields by which its subjects can be told apart, ``figure``
    what its plot shows, with the unit."""

    code: ClassVar[RuleType]
    direction: ClassVar[Direction] = Direction.AT_OR_ABOVE
    scopes: ClassVar[frozenset[str]]
    sentence: ClassVar[str]
    remedy: ClassVar[str]
    # Sums: a rule reads the one sum of exactly its scope, where others read every subject within it.
    sums: ClassVar[bool] = False
    figure: ClassVar[tuple[str, str]]
    # Whether the plot is of what the threshold is about, so that it can be marked.
    plots_value: ClassVar[bool] = True
    # The type whose incidents may be all that is behind one of this type, though it has no node: see ``explaining``.
    explained_by: ClassVar[RuleType | None] = None

    @abstractmethod
    def read(self, now: datetime) -> list[Reading]:
        """Every subject's value at ``now``, in a fixed number of queries."""

    @abstractmethod
    def past(self, subject: str, place: Place, window: Window) -> Points:
        """What one subject's value was in the past, in a fixed number of queries; empty where nothing is kept of it."""

    def without(self, nodes: Collection[int], now: datetime) -> Mapping[str, float]:
        """Every subject's value now but for what these silent nodes make of it; for types that they may explain."""
        raise NotImplementedError

    def condition_of(self, rule: AlertRule) -> Condition:
        """The condition of a rule of this type, as the pure decision takes it."""
        return Condition(self.direction, rule.threshold, rule.recovery_threshold, timedelta(seconds=rule.for_seconds))

    def say(self, name: str, value: float, threshold: float) -> str:
        """The incident in one sentence."""
        return self.sentence.format(name=name, value=value, threshold=threshold)
