"""What the demo fleet is made of. The hardware is real; the customers are not. Pure."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypedDict

GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A GPU as its driver reports it: memory in MiB, powers in watts, prices in USD per GPU-hour."""

    name: str
    short: str
    vram_mb: int
    idle_w: float
    limit_w: float
    list_price: Decimal


H100 = GpuModel("NVIDIA H100 80GB HBM3", "h100", 81_559, 72, 700, Decimal("2.99"))
A100 = GpuModel("NVIDIA A100-SXM4-80GB", "a100", 81_920, 56, 400, Decimal("1.79"))
L40S = GpuModel("NVIDIA L40S", "l40s", 46_068, 33, 350, Decimal("1.10"))
A10 = GpuModel("NVIDIA A10", "a10", 23_028, 18, 150, Decimal("0.60"))
MODELS = (H100, A100, L40S, A10)

# What a plan pays of the list price.
PLAN_FACTORS: Mapping[str, Decimal] = {
    "pro": Decimal("0.95"),
    "growth": Decimal("0.90"),
    "enterprise": Decimal("0.82"),
}


class DemoGpu(TypedDict):
    """A GPU as it is registered."""

    gpu_index: int
    model: str
    vram_mb: int
    uuid: str
    pci_bus_id: str


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A machine with eight GPUs of one model."""

    hostname: str
    ip_address: str
    model: GpuModel
    cpu_cores: int
    ram_gb: int

    def gpu_uuid(self, index: int) -> str:
        """A UUID that is the same in every run, in the form that the driver gives."""
        return f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{self.hostname}.gpu{index}')}"

    def gpus(self) -> list[DemoGpu]:
        """The node's GPUs as they are registered."""
        return [
            {
                "gpu_index": index,
                "model": self.model.name,
                "vram_mb": self.model.vram_mb,
                "uuid": self.gpu_uuid(index),
                "pci_bus_id": f"00000000:{0x10 + 0x0B * index:02X}:00.0",
            }
            for index in range(GPUS_PER_NODE)
        ]


@dataclass(frozen=True, slots=True)
class DemoCluster:
    """A data centre with so many nodes of each model."""

    name: str
    region: str
    network: str
    racks: tuple[tuple[GpuModel, int], ...]

    def nodes(self) -> list[DemoNode]:
        """Its machines, in the order of their names."""
        place = self.name.split("-")[0]
        return [
            DemoNode(
                hostname=f"{place}-{model.short}-{number:02}",
                ip_address=f"{self.network}.{10 * (1 + MODELS.index(model)) + number}",
                model=model,
                cpu_cores=64 if model is A10 else 192,
                ram_gb=512 if model is A10 else 2048,
            )
            for model, count in self.racks
            for number in range(1, count + 1)
        ]


CLUSTERS = (
    DemoCluster("fra-1", "eu-central", "10.20.1", ((H100, 6), (A100, 5), (L40S, 5))),
    DemoCluster("iad-2", "us-east", "10.40.2", ((H100, 4), (A100, 5), (L40S, 4), (A10, 3))),
)


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of job that a customer submits again and again; sizes in GPUs with their weights."""

    name: str
    gpu_type: str
    sizes: Mapping[int, int]
    hours: float
    priority: int = 5


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant of the demo. ``weight``: how often it comes; ``own_price``: a GPU model's price it negotiated."""

    name: str
    domain: str
    plan_tier: str
    gpu_quota: int
    weight: int
    people: tuple[str, ...]
    works: tuple[Work, ...]
    own_price: tuple[GpuModel, Decimal] | None = None

    @property
    def contact_email(self) -> str:
        """Where its invoices go."""
        return f"billing@{self.domain}"


# The quotas together are more than the fleet has, and each model is wanted by more than one customer.
CUSTOMERS: Sequence[Customer] = (
    Customer(
        name="Helix Biosciences",
        domain="helix.example",
        plan_tier="enterprise",
        gpu_quota=112,
        weight=6,
        people=("ines", "tomasz"),
        works=(
            Work("protein-fold", "H100", {8: 5, 16: 3, 32: 1}, 30, priority=3),
            Work("docking-sweep", "A100|H100", {4: 2, 8: 3}, 18),
            Work("cryo-em-refine", "A100", {8: 3, 16: 1}, 24),
        ),
        own_price=(H100, Decimal("2.25")),
    ),
    Customer(
        name="Northwind Robotics",
        domain="northwind.example",
        plan_tier="growth",
        gpu_quota=80,
        weight=5,
        people=("mara", "jonas", "wei"),
        works=(
            Work("policy-train", "A100", {4: 2, 8: 4, 16: 1}, 22, priority=4),
            Work("sim-rollouts", "L40S", {4: 2, 8: 4}, 16),
            Work("nightly-regression", "A10|L40S", {4: 3, 8: 2}, 9, priority=6),
        ),
    ),
    Customer(
        name="Quillwork AI",
        domain="quillwork.example",
        plan_tier="pro",
        gpu_quota=56,
        weight=5,
        people=("priya", "sam"),
        works=(
            Work("llm-finetune", "H100", {4: 2, 8: 4}, 22, priority=3),
            Work("eval-suite", "H100|A100", {1: 1, 2: 3, 4: 1}, 8),
            Work("embed-corpus", "A10|L40S", {2: 2, 4: 3}, 12, priority=7),
        ),
    ),
    Customer(
        name="Lumen Studio",
        domain="lumen.example",
        plan_tier="pro",
        gpu_quota=40,
        weight=4,
        people=("aiko", "bruno"),
        works=(
            Work("render-batch", "L40S", {4: 2, 8: 3}, 15),
            Work("diffusion-train", "L40S|A100", {4: 2, 8: 2}, 20),
            Work("upscale", "A10", {2: 2, 4: 2}, 9, priority=7),
        ),
    ),
    Customer(
        name="Tidepool Labs",
        domain="tidepool.example",
        plan_tier="starter",
        gpu_quota=8,
        weight=3,
        people=("noor",),
        works=(
            Work("notebook", "A10", {1: 4, 2: 1}, 9, priority=6),
            Work("whisper-transcribe", "A10|L40S", {1: 2, 2: 2, 4: 1}, 8),
        ),
    ),
)
