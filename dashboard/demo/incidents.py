"""What goes wrong in the simulated fleet, and passes again. Pure."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

# One GPU in the fleet overheats about every so often, and stays hot for a while; nodes fall silent more rarely.
OVERHEATING_EVERY = timedelta(minutes=9)
OVERHEATING_LASTS = (timedelta(minutes=3), timedelta(minutes=6))
SILENCE_EVERY = timedelta(minutes=25)
SILENCE_LASTS = (timedelta(minutes=3), timedelta(minutes=6))


@dataclass(slots=True)
class Trouble:
    """One kind of trouble: who has it now, and until when."""

    every: timedelta
    lasts: tuple[timedelta, timedelta]
    until: dict[str, datetime] = field(default_factory=dict)

    def advance(self, now: datetime, elapsed: timedelta, names: Sequence[str], rng: random.Random) -> None:
        """Let what is over pass, and strike with the chance that ``elapsed`` has. One has it at a time."""
        self.until = {name: end for name, end in self.until.items() if end > now}
        if not self.until and names and rng.random() < elapsed / self.every:
            self.until[rng.choice(names)] = now + self._how_long(rng)

    def _how_long(self, rng: random.Random) -> timedelta:
        shortest, longest = self.lasts
        return shortest + (longest - shortest) * rng.random()

    @property
    def struck(self) -> Collection[str]:
        """Who has it now."""
        return self.until.keys()


def overheating() -> Trouble:
    """GPUs whose cooling fails, by their UUID."""
    return Trouble(OVERHEATING_EVERY, OVERHEATING_LASTS)


def silence() -> Trouble:
    """Nodes that stop talking, by their hostname."""
    return Trouble(SILENCE_EVERY, SILENCE_LASTS)
