"""The fleet's ledger, read: what every GPU-second of a window was spent on. All figures of the house come from here.

    registered = sold + idle (could have run | fragmented | held by quota | no demand)
               + draining + maintenance + unhealthy + offline

The identity is exact, in whole microseconds, for any window, cluster, model, node or GPU, since it is computed from
the ranges of the ledger themselves. The rules:

- A second is registered when a state period or an allocation of the GPU covers it. It is sold when an allocation does,
  whatever state the GPU was in; else its state period says what it was.
- An available second that nobody held is idle, and the queue of its cluster says why: the jobs that waited at that
  instant and would have taken the GPU's model. Of several reasons the first in ``DEMAND`` counts, so that a second is
  put down to what the operator can mend soonest. Nobody waited: there was no demand.
- Windows are half-open ``[start, end)``. Open periods count up to the window's end, so a caller who asks for the future
  gets it as if nothing changed; a report ends its window at ``now``.
- Seconds are also told apart by UTC day, and by segment: the stretch of the window between two ``cuts``, such as the
  instants at which a price changed. Segment 0 is the first.

Whole past days may be read from a rollup (``jobs.ledger.rollups``) that says exactly the same; nobody who asks can
tell. A change of the past drops the days it touches from the rollup in its own transaction.
"""

from jobs.ledger.reading import account, accounts, sales, slots, unsold
from jobs.ledger.shapes import Account, By, Costly, Group, Ranking, Scope, Slot, Sold, Unsold

__all__ = [
    "Account",
    "By",
    "Costly",
    "Group",
    "Ranking",
    "Scope",
    "Slot",
    "Sold",
    "Unsold",
    "account",
    "accounts",
    "sales",
    "slots",
    "unsold",
]
