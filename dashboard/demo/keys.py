"""The keys of the simulation, in a file that only its owner may read."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "demo.json"


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """A cluster of the demo, and the key of its agents."""

    cluster_id: int
    name: str
    api_key: str


@dataclass(frozen=True, slots=True)
class DemoKeys:
    """All that the simulation must be told: the rest it asks the API."""

    clusters: tuple[ClusterAccess, ...]
    jobs_key: str


def read_keys(state: Path) -> DemoKeys | None:
    """The keys, or None when there is no file or no sense in it."""
    try:
        content = json.loads((state / FILE).read_text())
        return DemoKeys(tuple(ClusterAccess(**one) for one in content["clusters"]), content["jobs_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_keys(state: Path, keys: DemoKeys) -> None:
    """Put the file in its place in one step, with 0600 from its first byte on."""
    state.mkdir(parents=True, exist_ok=True)
    half = state / f".{FILE}.{os.getpid()}"
    descriptor = os.open(half, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(keys), file, indent=2)
    half.rename(state / FILE)
