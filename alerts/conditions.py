"""When a condition becomes an incident, and when it ends. Pure: plain values in, a decision out."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum


class Direction(Enum):
    """On which side of the threshold the trouble is."""

    BELOW = "below"
    AT_OR_ABOVE = "at or above"


class Decision(Enum):
    """What is to be done with the (rule, subject)."""

    NOTHING = "nothing"
    OPEN = "open"
    DROP = "drop"
    FIRE = "fire"
    UPDATE = "update"
    RESOLVE = "resolve"


@dataclass(frozen=True, slots=True)
class Condition:
    """A threshold, on which side of it the trouble is, where it ends, and how long it must hold."""

    direction: Direction
    threshold: float
    recovery_threshold: float | None
    for_duration: timedelta

    def is_met(self, value: float) -> bool:
        """Whether the value is in trouble."""
        return self._beyond(value, self.threshold)

    def still_holds(self, value: float) -> bool:
        """Whether an incident goes on at this value: it ends only beyond the recovery threshold."""
        limit = self.threshold if self.recovery_threshold is None else self.recovery_threshold
        return self._beyond(value, limit)

    def _beyond(self, value: float, limit: float) -> bool:
        return value < limit if self.direction is Direction.BELOW else value >= limit


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """What is known of the (rule, subject): whether it has fired, and since when its condition holds."""

    fired: bool
    since: datetime


def decide(condition: Condition, incident: OpenIncident | None, value: float | None, *, now: datetime) -> Decision:
    """What to do, given the newest value. No value is neither ok nor trouble: it changes nothing."""
    if value is None:
        return Decision.NOTHING
    if incident is None:
        if not condition.is_met(value):
            return Decision.NOTHING
        return Decision.OPEN if condition.for_duration else Decision.FIRE
    if incident.fired:
        return Decision.UPDATE if condition.still_holds(value) else Decision.RESOLVE
    if not condition.is_met(value):
        return Decision.DROP
    return Decision.FIRE if now - incident.since >= condition.for_duration else Decision.UPDATE
