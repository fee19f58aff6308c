"""What a forecast runs in place of a job, and what it makes of it."""

from dataclasses import replace

from helpers.tiny_job import job_spec

from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.job_sections import DevicesSection
from fwdllm_server.config.toml_model import parse_toml
from fwdllm_server.config.toml_text import to_toml
from fwdllm_server.simulation.curve import Point
from fwdllm_server.simulation.forecast import cost_of, two_rounds

AUTO = {"directions": "auto", "batch_size": "auto"}
SECURED = {
    "held_out": {"validation": 0.5},
    "rounds": {"min_devices": 8, "max_devices": 8, "patience": 1, "evaluate_every": 1},
    "devices": {"min_memory_mb": 512, "min_examples": 1000, "capabilities": ["gpu"], "per_day": 1},
    "privacy": {"secure_aggregation": True},
    "tracking": {"to": ["tensorboard"]},
    "blocks.head": AUTO,
    "blocks.peft": AUTO,
}


def test_simulated_devices_may_do_two_rounds_of_any_job(tmp_path):
    run = parse_toml(to_toml(two_rounds(job_spec(SECURED), tmp_path, 8)), JobSpec, "the forecast")

    assert (run.rounds.count, run.rounds.patience) == (2, 0)
    assert run.devices == DevicesSection()
    assert not run.privacy.secure_aggregation
    assert run.tracking.to == []


def test_a_masked_scalar_takes_eight_bytes():
    before = Point(1, 0.5, 1.0, 800, 100.0, 1.0, 1.0, 10_000, 20_000)
    point = replace(before, version=2, directions=1600, example_passes=180.0, bytes_up=12_400, bytes_down=24_000)
    open_, secured = (cost_of(spec, point, before, 8) for spec in (job_spec(), job_spec(SECURED)))

    assert (open_.example_passes, open_.bytes_up, open_.bytes_down) == (10, 300, 500)
    # Of a device's 100 scalars 200 bytes at least are among the 300.
    assert (secured.example_passes, secured.bytes_up, secured.bytes_down) == (10, 900, 500)
