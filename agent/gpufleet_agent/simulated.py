"""GPUs that are not there, for a try without hardware."""

from __future__ import annotations

import math
import time
import uuid
from typing import Callable

from gpufleet_agent.devices import Device, Reading

MODEL = "H100-SXM-80GB"
VRAM_MB = 81_559
PERIOD_S = 600.0


class SimulatedSource:
    """``count`` GPUs that breathe: their figures rise and fall with the clock, each with a phase of its own."""

    def __init__(self, count: int, hostname: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._devices = [
            Device(index, f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{hostname}/{index}')}", MODEL, VRAM_MB)
            for index in range(count)
        ]

    def devices(self) -> list[Device]:
        """All of them, always."""
        return list(self._devices)

    def readings(self) -> dict[str, Reading]:
        """All of them, always."""
        return {device.uuid: self._reading(device) for device in self._devices}

    def xids(self) -> dict[str, list[int]]:
        """None: they are well."""
        return {}

    def _reading(self, device: Device) -> Reading:
        load = 0.5 + 0.5 * math.sin(2 * math.pi * self._clock() / PERIOD_S + device.index)
        return Reading(
            utilization_pct=round(100 * load, 1),
            memory_used_mb=round(VRAM_MB * (0.1 + 0.8 * load)),
            memory_total_mb=VRAM_MB,
            temperature_c=round(34 + 40 * load, 1),
            power_draw_w=round(70 + 600 * load, 1),
        )
