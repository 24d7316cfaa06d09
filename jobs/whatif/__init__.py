"""What if: the live queue on a copy of the fleet, run forward as it is and as it might be. It changes nothing."""

from jobs.whatif.answers import Answer
from jobs.whatif.asking import Asked, NotQueued, NotYours, ask
from jobs.whatif.money import Money

__all__ = ["Answer", "Asked", "Money", "NotQueued", "NotYours", "ask"]
