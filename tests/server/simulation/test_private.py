"""Simulated rounds of jobs with secure aggregation and with differential privacy."""

import numpy as np
import pytest
from client.engine.tiny_bundle import write_bundle
from server.simulation.bench import Bench, device, sections

from fwdllm_common.fixed_point import to_fixed_point
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.packing import packed
from fwdllm_server.simulation.compute import Compute
from fwdllm_server.store import releases

AUTO = {"directions": "auto", "learning_rate": 0.05, "batch_size": "auto"}
DEVICES = [device(number, speed=10.0 + number) for number in range(9)]


def bench_of(tmp_path, dataset, privacy, **rounds) -> Bench:
    toml = sections(min_devices=8, max_devices=9, passes_budget=1000, **rounds) | {"privacy": privacy}
    toml |= {"blocks.peft": None, "blocks.head": AUTO, "perturbation": {"distribution": "rademacher"}}
    return Bench(tmp_path / "bench", write_bundle(tmp_path / "bundle"), dataset, toml, DEVICES)


@pytest.fixture
def measured(monkeypatch):
    """What each assignment's device has measured."""
    found: dict[str, list[float]] = {}
    compute = Compute.scalars

    def scalars(self, record, work):
        found[record.id] = compute(self, record, work)
        return found[record.id]

    monkeypatch.setattr(Compute, "scalars", scalars)
    return found


def test_the_sum_of_a_secured_round_is_that_of_what_devices_measured(tmp_path, dataset, measured):
    bench = bench_of(tmp_path, dataset, {"secure_aggregation": True}, count=1)
    bench.run()
    (entry,) = [LedgerEntry.from_bytes(each) for each in bench.entries]
    values = np.array([[to_fixed_point(value) for value in each] for each in measured.values()])
    total, count = 4 * values.sum(axis=0), 4 * len(values)  # all have as many rows, and so the weight 4
    assert len(values) == 9
    (update,) = entry.updates
    mean = (2 * total + count) // (2 * count)
    assert update.coefficients.tolist() == (packed(mean).integers() if update.packed else mean).tolist()
    bench.close()


@pytest.mark.parametrize("secured", [True, False])
def test_a_private_job_spends_its_budget_and_ends(tmp_path, dataset, secured):
    privacy = {"epsilon": 50.0, "delta": 1e-5, "clip": 1.0, "rounds_per_device": 2, "secure_aggregation": secured}
    bench = bench_of(tmp_path, dataset, privacy, count=5)
    bench.run()
    assert len(bench.entries) == 2
    assert "privacy budget spent" in bench.record.message
    with bench.store.transaction() as connection:
        assert releases.most(connection, "job1") == 2
    bench.close()
