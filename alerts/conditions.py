"""When a condition becomes an incident, and when it ends. Pure: plain values in, a decision out."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

# Whoever ended so often within the window is flapping, and ends next when it was well for so long in one piece.
FLAPS = 3
FLAP_WINDOW = timedelta(hours=1)
FLAP_HOLD = timedelta(minutes=30)


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
    CALM = "calm"
    RESOLVE = "resolve"
    MISS = "miss"


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
    """What is known of the (rule, subject): whether it has fired, since when its condition holds, when it is held for
    flapping, since when it is well, and whether it hangs under another and nobody was told of it."""

    fired: bool
    since: datetime
    flapping: bool = False
    calm_since: datetime | None = None
    unheard: bool = False


def decide(condition: Condition, incident: OpenIncident | None, value: float | None, *, now: datetime) -> Decision:
    """What to do, given the newest value. No value is neither ok nor trouble: an open incident notes it, and stays."""
    if value is None:
        return Decision.NOTHING if incident is None else Decision.MISS
    if incident is None:
        if not condition.is_met(value):
            return Decision.NOTHING
        return Decision.OPEN if condition.for_duration else Decision.FIRE
    if incident.fired:
        return _decide_fired(condition, incident, value, now)
    if not condition.is_met(value):
        return Decision.DROP
    return Decision.FIRE if now - incident.since >= condition.for_duration else Decision.UPDATE


def _decide_fired(condition: Condition, incident: OpenIncident, value: float, now: datetime) -> Decision:
    # Hysteresis spares people a second message; where there was no first, an incident lasts while its condition is met.
    if condition.is_met(value) or (condition.still_holds(value) and not incident.unheard):
        return Decision.UPDATE
    if not incident.flapping or (incident.calm_since is not None and now - incident.calm_since >= FLAP_HOLD):
        return Decision.RESOLVE
    return Decision.CALM
