import random

from django.conf import settings

from clusters.states import TEMPERATURE_LIMIT_C, TEMPERATURE_RECOVERED_C
from dashboard.demo.catalog import A10, H100, MODELS
from dashboard.demo.incidents import OVERHEATING_LASTS
from dashboard.demo.physics import GpuBody


def live(body: GpuBody, seconds: int, *, job_id: int | None = None, cooling: bool = True) -> GpuBody:
    rng = random.Random(1)
    for _ in range(seconds // 10):
        body.advance(10, job_id=job_id, cooling=cooling, rng=rng)
    return body


def test_an_idle_gpu_is_cool_quiet_and_nearly_empty() -> None:
    reading = live(GpuBody(H100), 600).reading(17)
    assert reading["gpu_id"] == 17
    assert 0 <= reading["utilization_pct"] <= 3
    assert reading["temperature_c"] < 45
    assert H100.idle_w * 0.9 <= reading["power_draw_w"] <= H100.idle_w * 1.2
    assert reading["memory_used_mb"] < 600


def test_a_busy_gpu_is_warm_loud_and_full_within_the_limits_of_its_model() -> None:
    for model in MODELS:
        for job_id in range(20):
            reading = live(GpuBody(model), 900, job_id=job_id).reading(1)
            assert reading["utilization_pct"] > 20
            assert 50 < reading["temperature_c"] < TEMPERATURE_RECOVERED_C
            assert model.idle_w < reading["power_draw_w"] <= model.limit_w
            assert model.vram_mb / 2 < reading["memory_used_mb"] <= model.vram_mb


def test_warmth_and_power_follow_the_load_with_inertia() -> None:
    body = live(GpuBody(H100), 600)
    cold = body.temperature_c
    live(body, 10, job_id=1)
    assert body.power_w > 0.7 * (0.72 * H100.limit_w)
    assert cold < body.temperature_c < cold + 15
    live(body, 300, job_id=1)
    hot = body.temperature_c
    live(body, 20)
    assert cold + 5 < body.temperature_c < hot
    live(body, 600)
    assert abs(body.temperature_c - cold) < 3


def test_a_gpu_without_cooling_is_called_ill_and_recovers_when_it_is_cooled() -> None:
    """Long enough above the limit that the control plane takes it out of service, and back in by itself."""
    body, rng, hot_s = live(GpuBody(A10), 300, job_id=1), random.Random(1), -10
    for _ in range(int(OVERHEATING_LASTS[0].total_seconds()) // 10):
        body.advance(10, job_id=1, cooling=False, rng=rng)
        hot_s = hot_s + 10 if body.temperature_c >= TEMPERATURE_LIMIT_C else -10
    assert hot_s >= settings.GPU_HOT_AFTER_SECONDS
    assert body.temperature_c < 100
    assert live(body, 90, job_id=1).temperature_c < TEMPERATURE_RECOVERED_C


def test_jobs_differ_and_one_job_is_like_itself() -> None:
    loads = [live(GpuBody(H100), 60, job_id=job_id).utilization_pct for job_id in range(8)]
    assert len(set(loads)) == 8
    assert live(GpuBody(H100), 60, job_id=3).utilization_pct == loads[3]
