"""Samples on their way to the server, on disk: in order, each sent under one key, so that none is lost or doubled.

Samples are appended to ``open.jsonl``. To be sent it is sealed: renamed to ``<number>-<generation>-<id>.jsonl`` and
never written again, so that every attempt sends the same bytes under the same Idempotency-Key, whoever died between
two of them. It is deleted when the server has it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gpufleet_agent.files import sync_folder, write_whole

logger = logging.getLogger(__name__)

# The server takes up to 5,000 samples in a batch, none of them older than a day.
MOST_SAMPLES = 2_000
LONGEST = timedelta(hours=24) - timedelta(minutes=2)
OPEN = "open.jsonl"
Sample = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """A sealed file. ``key`` is its Idempotency-Key."""

    path: Path
    key: str
    samples: tuple[Sample, ...]

    @property
    def body(self) -> bytes:
        """The request's body, the same bytes at each attempt."""
        return json.dumps({"metrics": self.samples}, separators=(",", ":")).encode()


class Spool:
    """A folder of samples, of ``most_bytes`` at most: beyond it the oldest go, and are counted in ``lost``.

    One thread may append while another one sends.
    """

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._open = folder / OPEN
        self._most_bytes = most_bytes
        self._lock = threading.RLock()
        self.lost = 0
        self._drop_older_generations()
        self._mend()
        self._count = len(_lines(self._open))

    def append(self, samples: Sequence[Sample]) -> None:
        """Keep samples; they are on the disk when this returns. Raises ``OSError`` where it is full: none is kept."""
        with self._lock:
            if self._count and self._count + len(samples) > MOST_SAMPLES:
                self._seal()
            text = "".join(json.dumps(sample, separators=(",", ":")) + "\n" for sample in samples)
            _append_whole(self._open, text.encode())
            self._count += len(samples)
            self._keep_within_bounds()

    def oldest(self, *, now: datetime) -> Batch | None:
        """The batch to be sent next, or None when all is sent. What the server would not take any more is dropped."""
        with self._lock:
            while True:
                if not self._sealed() and self._count:
                    self._seal()
                sealed = self._sealed()
                if not sealed:
                    return None
                batch = _read(sealed[0])
                late = [place for place, sample in enumerate(batch.samples) if _is_late(sample, now)]
                if not late:
                    return batch
                logger.warning("%d samples are more than a day old; the server takes them no more", len(late))
                self.drop(batch, late)

    def done(self, batch: Batch) -> None:
        """The server has it, or never will."""
        with self._lock:
            batch.path.unlink(missing_ok=True)
            sync_folder(self._folder)

    def drop(self, batch: Batch, places: Sequence[int]) -> None:
        """Let go of the samples at these places; the rest is another batch, in the same place of the order."""
        with self._lock:
            self.lost += len(places)
            refused = set(places)
            rest = [sample for place, sample in enumerate(batch.samples) if place not in refused]
            number, generation, _ = batch.path.stem.split("-", 2)
            if rest:
                name = f"{number}-{int(generation) + 1:04d}-{uuid.uuid4().hex}.jsonl"
                write_whole(self._folder / name, "".join(json.dumps(sample) + "\n" for sample in rest).encode())
            self.done(batch)

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self._folder.glob("*.jsonl"))

    def _sealed(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*-*-*.jsonl"))

    def _seal(self) -> None:
        sealed = self._sealed()
        number = int(sealed[-1].name.split("-", 1)[0]) + 1 if sealed else 0
        os.replace(self._open, self._folder / f"{number:012d}-0000-{uuid.uuid4().hex}.jsonl")
        sync_folder(self._folder)
        self._count = 0

    def _drop_older_generations(self) -> None:
        """Whoever was killed between the new generation and the end of the old one leaves both."""
        newest: dict[str, Path] = {}
        for path in self._sealed():
            number = path.name.split("-", 1)[0]
            if number in newest:
                newest[number].unlink()
            newest[number] = path

    def _mend(self) -> None:
        """A line that was cut off by a kill was never kept: take it away, so that the next one begins anew."""
        if self._open.exists():
            lines = _lines(self._open)
            whole = "".join(json.dumps(sample, separators=(",", ":")) + "\n" for sample in lines).encode()
            if whole != self._open.read_bytes():
                write_whole(self._open, whole)

    def _keep_within_bounds(self) -> None:
        while self.size() > self._most_bytes:
            sealed = self._sealed()
            if not sealed:
                return
            batch = _read(sealed[0])
            logger.error("the spool is full: the oldest %d samples are lost", len(batch.samples))
            self.lost += len(batch.samples)
            self.done(batch)


def _append_whole(path: Path, data: bytes) -> None:
    """All of it on the disk, or, where that is full, nothing: half a line would spoil the next. Raises ``OSError``."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def _read(path: Path) -> Batch:
    return Batch(path=path, key=path.stem.rsplit("-", 1)[1], samples=tuple(_lines(path)))


def _lines(path: Path) -> list[Sample]:
    """The whole lines of a file."""
    found = []
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    for line in text.split("\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:
            logger.warning("a line of %s is damaged and is left out", path.name)
    return found


def _is_late(sample: Sample, now: datetime) -> bool:
    return now - datetime.fromisoformat(sample["recorded_at"]) > LONGEST
