"""What a source of readings says of a node's GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Device:
    """A GPU as the driver knows it. ``index`` is the driver's; slots are given by ``assign_slots``."""

    index: int
    uuid: str
    model: str
    vram_mb: int | None
    pci_bus_id: str = ""


@dataclass(frozen=True)
class Reading:
    """One reading; None: not measured. Percent, megabytes, degrees Celsius, watts."""

    utilization_pct: float | None = None
    memory_used_mb: int | None = None
    memory_total_mb: int | None = None
    temperature_c: float | None = None
    power_draw_w: float | None = None
    xid: int | None = None

    def is_empty(self) -> bool:
        """Whether nothing at all was measured."""
        return self == Reading()


class SourceFailed(Exception):
    """The source says nothing at all at the moment."""


class Source(Protocol):
    """Where devices and readings come from."""

    def devices(self) -> list[Device]:
        """The GPUs that are there now. Raises ``SourceFailed``."""

    def readings(self) -> dict[str, Reading]:
        """What could be read now, by uuid. A GPU that could not be read is left out. Raises ``SourceFailed``."""

    def xids(self) -> dict[str, list[int]]:
        """The errors that the driver told of since the last call, by uuid, the oldest first; each is told once. A
        source that repeats the last one in its readings has none here."""


def assign_slots(devices: list[Device], before: dict[str, tuple[int, str]]) -> dict[str, int]:
    """A slot for each uuid, so that a GPU that falls off the bus does not move the others.

    The driver numbers the GPUs that it sees, so after a loss all later ones have other numbers. ``before`` gives the
    slot and PCI address by the uuids known so far: a known GPU keeps its slot, another one at a known address takes
    that slot over, a new one takes its own number or the lowest that is free.
    """
    slots = {one.uuid: before[one.uuid][0] for one in devices if one.uuid in before}
    by_address = {address: slot for slot, address in before.values() if address}
    taken = set(slots.values())
    for one in sorted(devices, key=lambda device: device.index):
        if one.uuid in slots:
            continue
        slot = by_address.get(one.pci_bus_id, one.index)
        reserved = taken | {known for known, address in before.values() if address != one.pci_bus_id}
        if slot in taken or (slot in reserved and slot != by_address.get(one.pci_bus_id)):
            slot = next(number for number in range(len(reserved) + 1) if number not in reserved)
        slots[one.uuid] = slot
        taken.add(slot)
    return slots
