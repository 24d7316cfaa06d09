"""The figures over the whole house: what the fleet did, what it earned, and what it lost. All read one ledger."""

from dashboard.queries.daily import Day, daily
from dashboard.queries.estimates import Estimates, estimates, estimates_lately
from dashboard.queries.fleet import FleetReport, fleet
from dashboard.queries.kpis import Kpis, kpis
from dashboard.queries.leakage import Leakage, leakage
from dashboard.queries.money import Money, money
from dashboard.queries.reclaimable import UNDERUSED_BELOW_PCT
from dashboard.queries.revenue import Revenue, revenue

__all__ = [
    "UNDERUSED_BELOW_PCT",
    "Day",
    "Estimates",
    "FleetReport",
    "Kpis",
    "Leakage",
    "Money",
    "Revenue",
    "daily",
    "estimates",
    "estimates_lately",
    "fleet",
    "kpis",
    "leakage",
    "money",
    "revenue",
]
