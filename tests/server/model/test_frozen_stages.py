"""A large prefix is several stages, of which a device holds one at a time, and no bit of what it computes changes."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from server.model.conftest import ROWS, Prepared, batch, by_block, prepare, rows, run_stages, save_model

from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.engine.sessions import Cpu, Session
from fwdllm_client.engine.tuning import Tuner
from fwdllm_common.directions import Directions
from fwdllm_common.manifest import MANIFEST_FILE, Manifest, Stage
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.config.precision import Precision
from fwdllm_server.model.export import STAGE_WEIGHTS
from fwdllm_server.model.quantise import quantise_bundle
from fwdllm_server.simulation.cost import PassCounter

ROOM = 1 << 20
SPLIT = ["prefix.onnx", "prefix-2.onnx", "prefix-3.onnx"]


class Watching(Cpu):
    """Knows which sessions ever were in memory together."""

    def __init__(self) -> None:
        self._alive: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()
        self.names: list[str] = []
        self.together: set[frozenset[str]] = set()

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        session = super().open(folder, stage, threads)
        self._alive[len(self.names)] = session
        self.names.append(stage.graph.name)
        self.together.add(frozenset(self.names[index] for index in self._alive))
        return session


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[Precision, bool], Prepared]:
    """A LLaMA of three layers, LoRA on the top one; by precision, and whether the prefix is split at every layer."""
    folder = tmp_path_factory.mktemp("llama")
    source = save_model("llama", folder / "model")
    spec = PeftSpec(method="lora", layers=[-1], rank=2)
    made: dict[tuple[Precision, bool], Prepared] = {}
    for split in (False, True):
        whole = prepare(source, "model", spec, folder / f"float32-{split}", 1 if split else STAGE_WEIGHTS)
        small = folder / f"int4-{split}"
        shutil.copytree(whole.folder, small, copy_function=shutil.copyfile)
        made["float32", split] = whole
        made["int4", split] = replace(whole, folder=small, manifest=quantise_bundle(small, whole.manifest, "int4"))
    return made


@pytest.fixture(params=["float32", "int4"])
def pair(request: pytest.FixtureRequest, bundles: Mapping[tuple[Precision, bool], Prepared]) -> list[Prepared]:
    """The same model with its prefix whole and split."""
    return [bundles[request.param, split] for split in (False, True)]


def answers(prepared: Prepared, folder: Path, limit: int, watching: Watching) -> tuple[bytes, ...]:
    """Scalars of both blocks, an evaluation and class sums."""
    theta = prepared.theta(1)[0]
    with Engine(prepared.folder, prepared.manifest, rows(), folder, 1, limit, watching) as engine:
        found = []
        for seed, block in enumerate(prepared.layout.blocks):
            task = DirectionTask(block, np.arange(3, dtype=np.uint64) + np.uint64(10 * seed), 1e-3, 5)
            chunks = engine.derivatives(theta, Directions(1), task, ROWS)
            found.append(np.concatenate([values for _, values in chunks]).tobytes())
        found.append(repr(engine.evaluate(theta, ROWS)).encode())
        found.extend(each.features.tobytes() for each in engine.class_sums(theta, ROWS))
    return tuple(found)


def test_a_prefix_is_split_before_layers_that_would_make_a_stage_too_large(pair: list[Prepared]) -> None:
    whole, split = (prepared.manifest for prepared in pair)
    assert [stage.graph.name for stage in split.stages if stage.block is None] == SPLIT
    assert (whole.frozen, split.frozen) == (1, 3)
    costs = [sum(stage.multiplications for stage in m.stages if stage.block is None) for m in (whole, split)]
    assert costs[0] == costs[1]
    assert Manifest.from_bytes((pair[1].folder / MANIFEST_FILE).read_bytes()) == split


def test_the_chain_gives_the_same_bits(pair: list[Prepared]) -> None:
    whole, split = pair
    feeds, theta = batch(6, 9), by_block(whole.layout, whole.theta(2))
    for expected, found in zip(run_stages(whole, feeds, theta), run_stages(split, feeds, theta), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("limit", [0, ROOM])
def test_a_device_gives_the_same_bits_with_one_frozen_stage_in_memory(
    pair: list[Prepared], limit: int, tmp_path: Path
) -> None:
    watching = Watching()
    expected = answers(pair[0], tmp_path / "whole", ROOM, Watching())
    assert answers(pair[1], tmp_path / "split", limit, watching) == expected
    assert all(len(names) == 1 for names in watching.together if names & set(SPLIT))


def test_rows_without_room_are_streamed_together(pair: list[Prepared], tmp_path: Path) -> None:
    prepared, watching = pair[1], Watching()
    with Engine(prepared.folder, prepared.manifest, rows(), tmp_path, 1, 0, watching) as engine:
        engine.evaluate(prepared.theta(1)[0], ROWS)
    assert [watching.names.count(name) for name in SPLIT] == [1] * len(SPLIT)


@pytest.mark.parametrize("block", [None, "peft", "head"])
def test_work_can_be_interrupted_before_every_unperturbed_run(
    pair: list[Prepared], tmp_path: Path, block: str | None
) -> None:
    """A count of the predictions (None) or a task in a block, interrupted ever later, and then to its end."""
    prepared, theta = pair[0], pair[0].theta(1)[0]
    task = block and DirectionTask(block, np.arange(3, dtype=np.uint64), 1e-3, 5)

    def work(engine: Engine) -> object:
        if task is None:
            return engine.evaluate(theta, ROWS)
        return [values.tolist() for _, values in engine.derivatives(theta, Directions(1), task, ROWS)]

    with Engine(prepared.folder, prepared.manifest, rows(), tmp_path / "whole", 1, ROOM) as engine:
        expected = work(engine)
    with Engine(prepared.folder, prepared.manifest, rows(), tmp_path / "interrupted", 1, ROOM) as engine:
        for allowed in (0, 1, 3):
            calls = iter(range(allowed))

            def check_cancelled(calls: Iterator[int] = calls) -> None:
                if next(calls, None) is None:
                    raise InterruptedError

            engine.set_cancellation_check(check_cancelled)
            with pytest.raises(InterruptedError):
                work(engine)
        engine.set_cancellation_check(lambda: None)
        assert work(engine) == expected


def test_rows_that_are_cached_need_no_frozen_stage(pair: list[Prepared], tmp_path: Path) -> None:
    first = answers(pair[1], tmp_path, ROOM, Watching())
    watching = Watching()
    assert answers(pair[1], tmp_path, ROOM, watching) == first
    assert not any(names & set(SPLIT) for names in watching.together)


def test_portions_change_no_bit(pair: list[Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answers(pair[1], tmp_path / "together", ROOM, Watching())
    monkeypatch.setattr("fwdllm_client.engine.base_pass.FLOATS_CARRIED", 1)
    assert answers(pair[1], tmp_path / "alone", ROOM, Watching()) == expected


def test_the_simulation_counts_what_the_engine_counts(pair: list[Prepared], tmp_path: Path) -> None:
    prepared, data = pair[1], rows()
    theta, counter = prepared.theta(1)[0], PassCounter(prepared.manifest, data, 1)
    with Engine(prepared.folder, prepared.manifest, data, tmp_path, 1, ROOM) as engine:
        counted = 0.0
        for block, seed in (("peft", 0), ("head", 7), ("peft", 0)):
            task = DirectionTask(block, np.arange(2, dtype=np.uint64) + np.uint64(seed), 1e-3, 5)
            list(engine.derivatives(theta, Directions(1), task, ROWS))
            before, each = counter.task(task, theta, ROWS)
            counted += before + 2 * each
        assert counted == pytest.approx(engine.example_passes)


def test_a_device_tunes_itself_on_the_first_block(pair: list[Prepared], tmp_path: Path) -> None:
    watching = Watching()
    tuner = Tuner(pair[1].folder, pair[1].manifest, rows(), [], watching, 1, tmp_path, iter(range(1000)).__next__)
    assert tuner.tuning().seconds_per_token > 0
    assert watching.together == {frozenset(["peft.onnx"])}
