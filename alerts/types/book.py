"""The readings of one type, looked at by many rules: sorted once a scope, so that a rule costs a search, no scan."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alerts.conditions import Condition, Direction
from alerts.models import AlertRule
from alerts.types.base import Place, Reading

# A rule's cluster, tenant and GPU model; None and "" stand for all.
Scope = tuple[int | None, int | None, str]


@dataclass(frozen=True, slots=True)
class Watched:
    """What a rule watches: the readings in the order of their values, and how many have none."""

    readings: Sequence[Reading]
    values: Sequence[float]
    missing: int

    def in_trouble(self, condition: Condition) -> Sequence[Reading]:
        """Those beyond the threshold."""
        cut = bisect_left(self.values, condition.threshold)
        return self.readings[:cut] if condition.direction is Direction.BELOW else self.readings[cut:]


class ReadingBook:
    """All readings of one type at one instant."""

    def __init__(self, readings: Iterable[Reading], *, sums: bool = False) -> None:
        self.by_subject = {reading.subject: reading for reading in readings}
        self._sums = sums
        self._by_cluster: dict[int | None, list[Reading]] = defaultdict(list)
        self._by_tenant: dict[int | None, list[Reading]] = defaultdict(list)
        self._by_model: dict[str, list[Reading]] = defaultdict(list)
        self._watched: dict[Scope, Watched] = {}
        for reading in self.by_subject.values():
            self._by_cluster[reading.place.cluster_id].append(reading)
            self._by_tenant[reading.place.tenant_id].append(reading)
            self._by_model[reading.place.gpu_model].append(reading)

    def covers(self, rule: AlertRule, reading: Reading) -> bool:
        """Whether the reading is within the rule's scope."""
        return self._is_within(scope_of(rule), reading.place)

    def watched_by(self, rule: AlertRule) -> Watched:
        """The readings within the rule's scope."""
        scope = scope_of(rule)
        if scope not in self._watched:
            self._watched[scope] = _sort([r for r in self._candidates(scope) if self._is_within(scope, r.place)])
        return self._watched[scope]

    def _candidates(self, scope: Scope) -> Iterable[Reading]:
        cluster_id, tenant_id, model = scope
        if cluster_id is not None:
            return self._by_cluster[cluster_id]
        if tenant_id is not None:
            return self._by_tenant[tenant_id]
        return self._by_model[model] if model else self.by_subject.values()

    def _is_within(self, scope: Scope, place: Place) -> bool:
        if self._sums:
            return scope == (place.cluster_id, place.tenant_id, place.gpu_model)
        cluster_id, tenant_id, model = scope
        return (
            (cluster_id is None or cluster_id == place.cluster_id)
            and (tenant_id is None or tenant_id == place.tenant_id)
            and (not model or model == place.gpu_model)
        )


def scope_of(rule: AlertRule) -> Scope:
    """The rule's scope."""
    return rule.cluster_id, rule.tenant_id, rule.gpu_model


def _sort(readings: Sequence[Reading]) -> Watched:
    known = sorted(((r.value, r) for r in readings if r.value is not None), key=lambda pair: pair[0])
    return Watched([r for _, r in known], [value for value, _ in known], len(readings) - len(known))
