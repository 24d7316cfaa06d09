"""What the console calls fields, and that no migration knows of it."""

import hashlib
from pathlib import Path

import pytest
from django.contrib.admin.utils import label_for_field

from alerts.models import AlertEvent
from clusters.models import GPU, Node, NodeWatch
from dashboard.words import as_written
from jobs.models import Job

VENDORED = Path(__file__).resolve().parent.parent / "static" / "dashboard" / "vendor"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("ram gb", "RAM, GB"),
        ("gpu count", "GPU count"),
        ("total gpus", "total GPUs"),
        ("threshold", "threshold"),
        ("min", "min"),
        ("for seconds", "for, seconds"),
        ("contact email", "contact e-mail"),
    ],
)
def test_names_are_written_as_people_write_them(name: str, written: str) -> None:
    assert as_written(name) == written


def test_fields_have_their_words_and_migrations_the_old_ones() -> None:
    assert str(label_for_field("vram_mb", GPU)) == "VRAM, MB"
    assert str(label_for_field("ip_address", Node)) == "IP address"
    assert str(label_for_field("estimated_duration_min", Job)) == "estimated duration, minutes"
    assert "verbose_name" not in GPU._meta.get_field("vram_mb").deconstruct()[3]


def test_models_have_their_words_too() -> None:
    assert (AlertEvent._meta.verbose_name, AlertEvent._meta.verbose_name_plural) == ("incident", "incidents")
    assert NodeWatch._meta.verbose_name_plural == "heartbeat watches"


@pytest.mark.parametrize("sums", sorted(VENDORED.rglob("SHA256SUMS")), ids=lambda file: file.parent.name)
def test_what_others_wrote_is_as_they_published_it(sums: Path) -> None:
    listed = {name: digest for digest, name in (line.split("  ") for line in sums.read_text().splitlines())}
    there = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sums.parent.iterdir() if file != sums}
    assert there == listed
    assert "LICENSE" in listed
