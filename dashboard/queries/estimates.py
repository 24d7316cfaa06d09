"""How well starts are foretold: estimates of the scheduler, of explanations and of what-if answers, held against what
happened."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.models import EstimateSource, StartEstimate
from jobs.queries import EstimateScore, score_estimates

SHOWN_FOR = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class SourceScore:
    """How well one source foretold starts."""

    source: EstimateSource
    score: EstimateScore


@dataclass(frozen=True, slots=True)
class Estimates:
    """The estimates made in ``[start, end)``: ``made``, and how those did whose job has started since; ``by_source``
    names the sources that have any of these."""

    start: datetime
    end: datetime
    made: int
    score: EstimateScore
    by_source: tuple[SourceScore, ...]

    @property
    def held_pct(self) -> int | None:
        """The part of the scored ones that held, in percent."""
        return None if self.score.held_share is None else round(100 * self.score.held_share)

    @property
    def p50(self) -> timedelta | None:
        """By how much half of them were off, at most."""
        return None if self.score.error_p50_s is None else timedelta(seconds=self.score.error_p50_s)

    @property
    def p90(self) -> timedelta | None:
        """By how much nine of ten were off, at most."""
        return None if self.score.error_p90_s is None else timedelta(seconds=self.score.error_p90_s)


def estimates(*, start: datetime, end: datetime) -> Estimates:
    """The estimates made in ``[start, end)``, in two queries."""
    made = StartEstimate.objects.filter(made_at__gte=start, made_at__lt=end).count()
    scores = score_estimates(start=start, end=end)
    by_source = tuple(SourceScore(source, scores[source]) for source in EstimateSource if source in scores)
    return Estimates(start, end, made, scores[None], by_source)


def estimates_lately(*, now: datetime) -> Estimates:
    """Those of the last seven days."""
    return estimates(start=now - SHOWN_FOR, end=now)
