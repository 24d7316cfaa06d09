"""How a simulated GPU warms up, draws power and fills its memory. Pure."""

import math
import random
from dataclasses import dataclass

from dashboard.demo.catalog import GpuModel

INLET_C = 27.0
# The die follows its load within about a minute; the power within seconds; memory fills as data is loaded.
HEATING_S = 55.0
POWER_S = 4.0
LOADING_S = 40.0
DRIVER_MB = 480
# A GPU whose cooling has failed goes here under any load, and a little faster than it would warm up.
OVERHEATED_C = 95.5


@dataclass(slots=True)
class GpuBody:
    """A GPU's inner state, moved on by ``advance``. Powers in watts, temperatures in °C, memory in MiB."""

    model: GpuModel
    temperature_c: float = INLET_C + 4
    power_w: float = 0.0
    memory_mb: float = DRIVER_MB
    utilization_pct: float = 0.0

    def advance(self, seconds: float, *, job_id: int | None, cooling: bool, rng: random.Random) -> None:
        """Live through some seconds, working for a job or idle, with its cooling or without."""
        load = _load(job_id, rng)
        self.utilization_pct = round(100 * load, 1)
        power = self.model.idle_w + (self.model.limit_w - self.model.idle_w) * load**1.15
        self.power_w = _towards(self.power_w, power, seconds, POWER_S)
        warmth = 46.0 * self.power_w / self.model.limit_w
        aim = INLET_C + 4 + warmth if cooling else OVERHEATED_C
        aim += rng.uniform(-0.6, 0.6)
        self.temperature_c = _towards(self.temperature_c, aim, seconds, HEATING_S if cooling else HEATING_S / 2)
        memory = DRIVER_MB if job_id is None else self.model.vram_mb * _appetite(job_id)
        self.memory_mb = _towards(self.memory_mb, memory, seconds, LOADING_S)

    def reading(self, gpu_id: int) -> dict[str, float | int]:
        """What its agent sends."""
        return {
            "gpu_id": gpu_id,
            "utilization_pct": self.utilization_pct,
            "memory_used_mb": round(self.memory_mb),
            "memory_total_mb": self.model.vram_mb,
            "temperature_c": round(self.temperature_c, 1),
            "power_draw_w": round(self.power_w, 1),
        }


def _load(job_id: int | None, rng: random.Random) -> float:
    """0 to 1: idle GPUs flicker, busy ones work steadily at their job's own level and stall now and then."""
    if job_id is None:
        return rng.uniform(0.0, 0.03)
    level = 0.72 + 0.26 * _draw(job_id, "level")
    stalls = rng.random() < 0.04
    return min(max(rng.gauss(level * (0.35 if stalls else 1.0), 0.025), 0.0), 1.0)


def _appetite(job_id: int) -> float:
    """What part of the memory a job takes."""
    return 0.55 + 0.41 * _draw(job_id, "memory")


def _draw(job_id: int, what: str) -> float:
    """The same number for the same job, between 0 and 1."""
    return random.Random(f"{what}:{job_id}").random()  # noqa: S311  (a simulation, not a secret)


def _towards(value: float, aim: float, seconds: float, time_constant: float) -> float:
    """A first-order lag."""
    return aim + (value - aim) * math.exp(-seconds / time_constant)
