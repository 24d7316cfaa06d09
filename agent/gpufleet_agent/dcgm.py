"""GPUs by NVIDIA's dcgm-exporter: a page of Prometheus text.

DCGM writes "no value" as a number near the largest of its type; see ``dcgm_structs.h``: ``DCGM_INT32_BLANK`` is
2147483632, ``DCGM_INT64_BLANK`` 9223372036854775792, ``DCGM_FP64_BLANK`` 140737488355328.0, and the next few above
each say why (not found, not supported, not permissioned). Newer exporters leave such lines out, older ones print them.
"""

from __future__ import annotations

import http.client
import math
import re
import urllib.error
import urllib.request
from collections import defaultdict

from gpufleet_agent.devices import Device, Reading, SourceFailed

TIMEOUT_S = 5.0
LARGEST_PAGE = 16 * 2**20
BLANKS = ((2147483632, 2147483647), (140737488355328, 140737488355343), (9223372036854775792, 2**63))
LINE = re.compile(r"^(DCGM_FI_[A-Z0-9_]+)\{(.*)\}\s+(\S+)(?:\s+-?\d+)?$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
UTILIZATION = "DCGM_FI_DEV_GPU_UTIL"
ACTIVITY = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
USED, FREE, RESERVED = "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_RESERVED"
TOTAL = "DCGM_FI_DEV_FB_TOTAL"
TEMPERATURE, POWER, XID = "DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_XID_ERRORS"

Labels = dict[str, str]
Fields = dict[str, float]


class DcgmSource:
    """The GPUs on a dcgm-exporter's page. A GPU cut by MIG is one GPU: its instances' memory is summed up."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no address; it begins with http:// or https://.")
        self._url = url

    def devices(self) -> list[Device]:
        """Every GPU that the page names."""
        return [
            Device(
                index=int(labels["gpu"]),
                uuid=uuid,
                model=labels.get("modelName", "")[:100],
                vram_mb=_total(fields),
                pci_bus_id=labels.get("pci_bus_id", "")[:32],
            )
            for uuid, (labels, fields) in self._scrape().items()
        ]

    def readings(self) -> dict[str, Reading]:
        """What the page says of each GPU."""
        read = {
            uuid: reading_of(fields, is_cut="GPU_I_ID" in labels) for uuid, (labels, fields) in self._scrape().items()
        }
        return {uuid: reading for uuid, reading in read.items() if not reading.is_empty()}

    def xids(self) -> dict[str, list[int]]:
        """None: the exporter's page has the last one only, for ever, and it is in the readings."""
        return {}

    def _scrape(self) -> dict[str, tuple[Labels, Fields]]:
        try:
            with urllib.request.urlopen(self._url, timeout=TIMEOUT_S) as response:  # noqa: S310  (checked above)
                page = response.read(LARGEST_PAGE).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise SourceFailed(f"{self._url} does not answer: {error}") from error
        found = parse_page(page)
        if not found:
            # An exporter that has just been started says as little as one that never sees a GPU.
            raise SourceFailed(f"{self._url} names no GPU")
        return found


def parse_page(page: str) -> dict[str, tuple[Labels, Fields]]:
    """The labels and fields of each GPU, by uuid; fields that are blank are left out."""
    labels_of: dict[str, Labels] = {}
    whole: dict[str, Fields] = defaultdict(dict)
    parts: dict[str, Fields] = defaultdict(dict)
    for line in page.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        name, text, number = match.groups()
        labels = dict(LABEL.findall(text))
        uuid, value = labels.get("UUID") or labels.get("uuid", ""), _number(number)
        if not uuid or not labels.get("gpu", "").isdigit():
            continue
        labels_of.setdefault(uuid, labels)
        if value is not None and "GPU_I_ID" in labels:
            _add(parts[uuid], name, value)
        elif value is not None:
            whole[uuid][name] = value
    return {uuid: (labels, {**parts[uuid], **whole[uuid]}) for uuid, labels in labels_of.items()}


def reading_of(fields: Fields, *, is_cut: bool = False) -> Reading:
    """DCGM's fields in our units: memory in MiB, as DCGM has it; activity is a share of one. Where MIG has cut the GPU
    up, its instances together may have less memory than it has, and another cut is no loss: so no total is told."""
    load = fields.get(UTILIZATION)
    if load is None and ACTIVITY in fields:
        load = 100 * fields[ACTIVITY]
    used = fields.get(USED)
    return Reading(
        utilization_pct=None if load is None else min(max(load, 0.0), 100.0),
        memory_used_mb=None if used is None else round(used),
        memory_total_mb=None if is_cut else _total(fields),
        temperature_c=fields.get(TEMPERATURE),
        power_draw_w=fields.get(POWER),
        xid=round(fields[XID]) if fields.get(XID) else None,
    )


def _add(fields: Fields, name: str, value: float) -> None:
    """A MIG instance's memory is part of the GPU's; of all else the busiest instance speaks for it."""
    if name in (USED, FREE, RESERVED, TOTAL):
        fields[name] = fields.get(name, 0.0) + value
    else:
        fields[name] = max(fields.get(name, value), value)


def _total(fields: Fields) -> int | None:
    if TOTAL in fields:
        return round(fields[TOTAL])
    if USED in fields and FREE in fields:
        return round(fields[USED] + fields[FREE] + fields.get(RESERVED, 0.0))
    return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    # As floats the largest of these are all the same number, which is no reading either.
    blank = any(low <= value <= high for low, high in BLANKS)
    return None if blank or not math.isfinite(value) else value
