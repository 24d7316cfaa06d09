"""GPUs by NVML, the driver's own library, through ``nvidia-ml-py``."""

from __future__ import annotations

from typing import Any, Callable

from gpufleet_agent.devices import Device, Reading, SourceFailed

MEGABYTE = 2**20
MILLI = 1000


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


def _decoded(text: Any) -> str:
    """Older bindings give bytes."""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
