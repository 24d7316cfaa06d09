"""A node's reports: who it is, that it lives, which GPUs it has, and what they do."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gpufleet_agent.client import Client
from gpufleet_agent.devices import Device, Reading, Source, SourceFailed, assign_slots
from gpufleet_agent.files import read_json, write_json
from gpufleet_agent.spool import Batch, Spool
from gpufleet_agent.transport import Busy, Refused, Unreachable

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
JITTER = 0.1
BAD_INPUT = 400
TOO_LARGE = 413
KEY_REUSED = 422
# A batch that waits is sent on at once; this many in a turn, so that heartbeats are not late.
BATCHES_A_TURN = 20


@dataclass(frozen=True)
class NodeFacts:
    """What the node says of itself."""

    cluster_id: int
    hostname: str
    ip_address: str | None
    cpu_cores: int | None
    ram_gb: int | None


class Telemetry:
    """Registers, beats, samples and sends. ``step`` does what is due at an instant; the clock is the caller's.

    What the server said of the node is kept in ``folder``, so that a restart while the server is away goes on
    sampling under the ids that the GPUs have.
    """

    def __init__(
        self,
        client: Client,
        source: Source,
        facts: NodeFacts,
        folder: Path,
        *,
        spool: Spool,
        interval_s: float,
        heartbeat_s: float,
        rng: random.Random,
    ) -> None:
        self._client, self._source, self._facts = client, source, facts
        self._known = folder / "node.json"
        self._interval, self._heartbeat = interval_s, heartbeat_s
        self.spool, self._rng = spool, rng
        known = read_json(self._known)
        self.node_id: int | None = known.get("node_id")
        self.status: str = known.get("status", "")
        self._gpus: dict[str, dict[str, Any]] = known.get("gpus", {})
        self._has_registered: bool = known.get("registered", False)
        self._next_beat = self._next_sample = self._next_call = float("-inf")
        self._failures = 0

    def step(self, now: datetime, tick: float) -> float:
        """Sample and speak, whatever is due. Returns how many seconds later something is due again."""
        return min(self.sample(now, tick), self.speak(now, tick))

    def sample(self, now: datetime, tick: float) -> float:
        """Take a sample, dated ``now``, if one is due at ``tick``, seconds of a clock that nobody sets. Returns how
        many seconds later the next one is. A server that lets us wait must not hold it up: it may have a thread of
        its own beside ``speak``'s."""
        if tick >= self._next_sample:
            self._next_sample = tick + self._jittered(self._interval)
            self._sample(now)
        return max(self._next_sample - tick, 0.0)

    def speak(self, now: datetime, tick: float) -> float:
        """Beat, register and send, if the server may be spoken to at ``tick``. Returns how many seconds later it is to
        be spoken to again."""
        if tick >= self._next_call:
            self._next_call = tick + self._jittered(min(self._interval, self._heartbeat) / 2)
            self._speak(now, tick)
        return max(self._next_call - tick, 0.0)

    def _speak(self, now: datetime, tick: float) -> None:
        try:
            if tick >= self._next_beat:
                self._beat()
                self._next_beat = tick + self._jittered(self._heartbeat)
            self._send(now)
            self._failures = 0
        except (Unreachable, Busy) as error:
            wait = self._backoff(error)
            logger.warning("%s; again in %.0f s", error, wait)
            self._next_call = tick + wait
        except Refused as error:
            # A key that was revoked may be replaced, a cluster put in order: the samples wait meanwhile.
            logger.error("the server refuses this node: %s", error)
            self._failures += 1
            self._next_call = tick + self._rng.uniform(LONGEST_WAIT_S / 2, LONGEST_WAIT_S)

    def _backoff(self, error: Exception) -> float:
        """Seconds: what the server asked for and a little more, or twice as long each time, never in step."""
        self._failures += 1
        asked = error.retry_after if isinstance(error, Busy) else None
        if asked is not None:
            return asked + self._rng.uniform(0, 1)
        longest = min(FIRST_WAIT_S * 2 ** min(self._failures - 1, 10), LONGEST_WAIT_S)
        return self._rng.uniform(longest / 2, longest)

    def _beat(self) -> None:
        """The heartbeat; the GPUs too where they are not those that the server knows."""
        try:
            devices = self._source.devices()
        except SourceFailed as error:
            logger.error("the GPUs can't be seen: %s", error)
            self._greet(None)
            return
        self._greet(len(devices))
        slots = assign_slots(devices, {uuid: (gpu["slot"], gpu["pci"]) for uuid, gpu in self._gpus.items()})
        there = {uuid for uuid, gpu in self._gpus.items() if gpu["there"]}
        if not self._has_registered or {device.uuid for device in devices} != there:
            self._register(devices, slots)  # None at all is said too: the last one may have vanished.

    def _greet(self, total_gpus: int | None) -> None:
        """Register the node, or send its heartbeat, and keep what the server wants of it."""
        facts = self._facts
        fields: dict[str, Any] = {"cluster_id": facts.cluster_id, "hostname": facts.hostname}
        more = {
            "ip_address": facts.ip_address,
            "total_gpus": total_gpus,
            "cpu_cores": facts.cpu_cores,
            "ram_gb": facts.ram_gb,
        }
        node = self._client.register_node({**fields, **{k: v for k, v in more.items() if v is not None}})
        if (self.node_id, self.status) != (node["id"], node["status"]):
            logger.info("this is node %d, %s", node["id"], node["status"])
            if self.node_id != node["id"]:
                # New, another cluster's, or decommissioned and back: its GPUs have other ids.
                self._gpus, self._has_registered = {}, False
            self.node_id, self.status = node["id"], node["status"]
            self._remember()

    def _register(self, devices: list[Device], slots: dict[str, int]) -> None:
        assert self.node_id is not None  # noqa: S101  (it was greeted)
        ordered = sorted(devices, key=lambda device: slots[device.uuid])
        body = [_described(device, slots[device.uuid]) for device in ordered]
        answers = self._client.register_gpus(self.node_id, body)
        replaced = set(slots.values())
        kept = {u: {**gpu, "there": False} for u, gpu in self._gpus.items() if gpu["slot"] not in replaced}
        for device, answer in zip(ordered, answers):
            slot = slots[device.uuid]
            kept[device.uuid] = {"id": answer["id"], "slot": slot, "pci": device.pci_bus_id, "there": True}
        self._gpus, self._has_registered = kept, True  # At once: samples are being taken meanwhile.
        logger.info("%d GPUs registered", len(devices))
        self._remember()

    def _remember(self) -> None:
        known = {"node_id": self.node_id, "status": self.status, "gpus": self._gpus}
        write_json(self._known, {**known, "registered": self._has_registered})

    def _sample(self, now: datetime) -> None:
        gpus = self._gpus
        if not gpus:
            return
        readings, xids = self._readings(), self._source.xids()
        samples = [
            sample
            for uuid, gpu in gpus.items()
            for sample in _samples_of(gpu["id"], now, readings.get(uuid, Reading()), xids.get(uuid, []))
        ]
        if samples:
            self.spool.append(samples)

    def _readings(self) -> dict[str, Reading]:
        try:
            return self._source.readings()
        except SourceFailed as error:
            logger.error("no readings: %s", error)
            return {}

    def _send(self, now: datetime) -> None:
        for _ in range(BATCHES_A_TURN):
            batch = self.spool.oldest(now=now)
            if batch is None:
                return
            try:
                self._client.post_metrics(batch.body, idempotency_key=batch.key)
            except Refused as refusal:
                self._set_aside(batch, refusal)
            else:
                self.spool.done(batch)

    def _set_aside(self, batch: Batch, refusal: Refused) -> None:
        """One bad sample refuses its batch: without those that the server names, the rest goes. Raises ``Refused``
        where it is not the samples that are refused."""
        if refusal.status == KEY_REUSED:
            self.spool.drop(batch, ())  # All of it again, under another key.
            return
        if refusal.status not in (BAD_INPUT, TOO_LARGE):
            raise refusal
        named = [error.get("pointer", "").split("/") for error in refusal.problem.get("errors", [])]
        places = {int(parts[2]) for parts in named if len(parts) > 2 and parts[2].isdigit()}
        logger.error("%d samples are refused: %s", len(places) or len(batch.samples), refusal)
        self.spool.drop(batch, sorted(places) or range(len(batch.samples)))

    def _jittered(self, interval: float) -> float:
        return interval * self._rng.uniform(1 - JITTER, 1 + JITTER)


def _described(device: Device, slot: int) -> dict[str, Any]:
    fields = {
        "gpu_index": slot,
        "model": device.model or None,
        "vram_mb": device.vram_mb,
        "uuid": device.uuid,
        "pci_bus_id": device.pci_bus_id or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _samples_of(gpu_id: int, now: datetime, reading: Reading, xids: list[int]) -> list[dict[str, Any]]:
    """The reading with the newest error, and before it a sample for each error that is older: a sample has room for
    one. A GPU that says nothing any more may still have told of its end."""
    if xids:
        reading = replace(reading, xid=xids[-1])
    earlier = [Reading(xid=xid) for xid in xids[:-1]]
    samples = []
    for place, one in enumerate([*earlier, *([] if reading.is_empty() else [reading])]):
        at = now - timedelta(milliseconds=len(earlier) - place)
        figures = {name: value for name, value in vars(one).items() if value is not None}
        samples.append({"gpu_id": gpu_id, "recorded_at": at.isoformat(timespec="milliseconds"), **figures})
    return samples
