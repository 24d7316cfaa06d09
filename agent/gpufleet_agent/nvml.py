"""GPUs by NVML, the driver's own library, through ``nvidia-ml-py``."""

from __future__ import annotations

import ctypes
import logging
from typing import Any, Callable

from gpufleet_agent.devices import Device, Reading, SourceFailed

logger = logging.getLogger(__name__)

MEGABYTE = 2**20
MILLI = 1000
# A GPU in distress tells the same error many times; the rest is read in the next turn.
MOST_EVENTS_A_TURN = 1_000


class NvmlSource:
    """The GPUs that the driver sees. One that fails a query is read without that figure."""

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise SourceFailed("NVML's bindings are not installed: pip install 'gpufleet-agent[nvml]'") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise SourceFailed(f"NVML does not start: {error}") from error
        self._events = self._ask(pynvml.nvmlEventSetCreate)
        self._uuid_of: dict[int, str] = {}
        self._watch()

    def devices(self) -> list[Device]:
        """Every GPU that has a uuid; one that has fallen off the bus has none any more."""
        found = []
        for index, handle in self._handles():
            uuid = self._text(self._nvml.nvmlDeviceGetUUID, handle)
            if uuid:
                memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
                pci = self._ask(self._nvml.nvmlDeviceGetPciInfo, handle)
                found.append(
                    Device(
                        index=index,
                        uuid=uuid,
                        model=self._text(self._nvml.nvmlDeviceGetName, handle)[:100],
                        vram_mb=None if memory is None else memory.total // MEGABYTE,
                        pci_bus_id="" if pci is None else _decoded(pci.busId)[:32],
                    )
                )
        return found

    def readings(self) -> dict[str, Reading]:
        """By uuid; a GPU that answers nothing is left out."""
        found = {}
        for _, handle in self._handles():
            uuid, reading = self._text(self._nvml.nvmlDeviceGetUUID, handle), self._reading(handle)
            if uuid and not reading.is_empty():
                found[uuid] = reading
        return found

    def xids(self) -> dict[str, list[int]]:
        """XID errors since the last call, by uuid, oldest first, each number once. They are events: the driver keeps
        them for us from the GPU's first sight on, and no longer than until they are read."""
        found: dict[str, list[int]] = {}
        for _ in range(MOST_EVENTS_A_TURN if self._events is not None else 0):
            event = self._ask(self._nvml.nvmlEventSetWait_v2, self._events, 0)
            if event is None:
                break
            uuid = self._uuid_of.get(_address(event.device), "")
            number = int(event.eventData)
            if event.eventType != self._nvml.nvmlEventTypeXidCriticalError or number in found.get(uuid, ()):
                continue
            logger.error("XID %d on %s", number, uuid or "a GPU that we do not know")
            if uuid:
                found.setdefault(uuid, []).append(number)
        self._watch()
        return found

    def _watch(self) -> None:
        """Ask for the events of GPUs that are new. A GPU that falls off the bus does not say who it is any more, so
        that it must be known by its handle from before."""
        nvml = self._nvml
        try:
            handles = self._handles()
        except SourceFailed:
            return
        for _, handle in handles:
            uuid, address = self._text(nvml.nvmlDeviceGetUUID, handle), _address(handle)
            if uuid and self._events is not None:
                if address not in self._uuid_of:
                    self._ask(nvml.nvmlDeviceRegisterEvents, handle, nvml.nvmlEventTypeXidCriticalError, self._events)
                self._uuid_of[address] = uuid

    def _handles(self) -> list[tuple[int, Any]]:
        try:
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            raise SourceFailed(f"NVML does not answer: {error}") from error
        handles = [(index, self._ask(self._nvml.nvmlDeviceGetHandleByIndex, index)) for index in range(count)]
        return [(index, handle) for index, handle in handles if handle is not None]

    def _reading(self, handle: Any) -> Reading:
        nvml = self._nvml
        load = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        power = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        return Reading(
            utilization_pct=None if load is None else float(load.gpu),
            memory_used_mb=None if memory is None else memory.used // MEGABYTE,
            memory_total_mb=None if memory is None else memory.total // MEGABYTE,
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            power_draw_w=None if power is None else power / MILLI,
        )

    def _text(self, question: Callable[..., Any], handle: Any) -> str:
        return _decoded(self._ask(question, handle) or "")

    def _ask(self, question: Callable[..., Any], *args: Any) -> Any | None:
        """The answer, or None where the driver has none. One figure that fails takes no other with it."""
        try:
            return question(*args)
        except self._nvml.NVMLError:
            return None


def _address(handle: Any) -> int:
    """What tells one GPU's handle from another's: NVML gives the same one each time."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _decoded(text: Any) -> str:
    """Older bindings give bytes."""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
