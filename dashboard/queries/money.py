"""Leakage and revenue of one window, of one instant and one reading of the ledger: what the leakage page shows.

The same figures as ``leakage`` and ``revenue``, without what the page does not show: the days, the window before, and,
unless they are asked for, the GPUs behind unsold time.
"""

from dataclasses import dataclass
from datetime import datetime

from dashboard.queries.leakage import Leakage, lost_in, report_of
from dashboard.queries.revenue import Revenue, earned_from
from gpufleet.common.snapshots import snapshot


@dataclass(frozen=True, slots=True)
class Money:
    """What a window lost and what it earned."""

    lost: Leakage
    earned: Revenue


def money(currency: str, *, start: datetime, end: datetime, most: int = 0) -> Money:
    """Both reports of ``[start, end)`` in one currency; ``end`` is now. With the ``most`` largest rows of each cause.

    A fixed number of queries.
    """
    with snapshot():
        lost = lost_in(currency, start=start, end=end, most=most)
        return Money(
            report_of(lost, currency, start=start, end=end, most=most),
            earned_from(lost.sold, currency, start=start, end=end),
        )
