import re
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from client.engine.providers import FakeClock, Priced

from fwdllm_client.engine.provider_probe import Answers, ProviderProbe
from fwdllm_client.engine.provider_selection import difference, select_provider
from fwdllm_client.engine.providers import accelerators, placement
from fwdllm_client.engine.sessions import CPU_PROVIDER, Cpu
from fwdllm_client.engine.stages import StageChain
from fwdllm_common.errors import BadInputError


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def climbed(bundle, dataset, clock):
    def run(*candidates, cpu_price=1e-3):
        cpu = Priced("cpu", clock, cpu_price)
        return select_provider(bundle.folder, bundle.manifest, ProviderProbe(dataset), candidates, cpu, 1, clock)

    return run


def of(found, name):
    return next(attempt for attempt in found.attempts if attempt.provider == name)


def test_the_fastest_that_gives_the_numbers_wins(climbed, clock):
    slow, fast, faster = Priced("slow", clock, 2e-3), Priced("fast", clock, 5e-4), Priced("faster", clock, 1e-4)
    found = climbed(slow, faster, fast)
    assert found.best is faster
    assert [attempt.provider for attempt in found.attempts] == ["slow", "faster", "fast", "cpu"]
    assert of(found, "slow").seconds_per_token == pytest.approx(2e-3)
    assert all(attempt.refused is None for attempt in found.attempts)
    assert found.reference is not None


def test_a_slow_one_leaves_the_cpu(climbed, clock):
    assert climbed(Priced("slow", clock, 2e-3)).best.name == "cpu"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda values: values * np.float32(1.05), "losses differ"),
        (np.zeros_like, "losses differ"),
        (lambda values: values * np.float32("nan"), "losses differ"),
        (lambda values: np.round(values * 200) / np.float32(200), "differences of losses"),
        (lambda values: values[:1], "shape|operands|broadcast|dimension"),
    ],
    ids=["scaled", "zero", "nan", "coarse", "cut"],
)
def test_a_fast_one_with_wrong_numbers_is_refused(climbed, clock, fault, reason):
    found = climbed(Priced("wrong", clock, 1e-9, fault))
    assert found.best.name == "cpu"
    assert of(found, "wrong").seconds_per_token is None
    assert pytest.approx(1e-3) == of(found, "cpu").seconds_per_token
    assert re.search(reason, of(found, "wrong").refused)


def half(values):
    return np.clip(values, -60000, 60000).astype(np.float16).astype(np.float32)


def test_activations_in_half_precision_pass_and_losses_in_it_do_not(climbed, clock):
    """In float16 no difference of losses survives."""
    assert "differences of losses" in of(climbed(Priced("half", clock, 1e-9, half)), "half").refused
    npu = Priced("npu", clock, 1e-9, lambda values: values if values.ndim == 1 else half(values))
    assert climbed(npu).best is npu


def test_one_that_cannot_be_opened_says_why(climbed, clock):
    found = climbed(Priced("gone", clock, 1e-9, opens=False))
    assert found.best.name == "cpu"
    assert "gone: no such device" in of(found, "gone").refused
    assert found.reference is None  # the CPU was not asked for what nobody is compared with


def test_one_that_takes_no_node_is_none(climbed, clock):
    found = climbed(Priced("idle", clock, 1e-9, nodes={CPU_PROVIDER: 7}))
    assert of(found, "idle").refused == "it took none of the 7 nodes"
    shared = climbed(Priced("npu", clock, 1e-9, nodes={"Npu": 5, CPU_PROVIDER: 2}))
    assert shared.best.name == "npu"
    assert of(shared, "npu").nodes == {"Npu": 5, CPU_PROVIDER: 2}


def test_the_trial_depends_on_every_part_of_the_model(bundle, dataset):
    """A fault in any stage or block shows in the answers."""
    probe = ProviderProbe(dataset)
    reference = probe.answers(StageChain(bundle.folder, bundle.manifest, Cpu(), 1))
    assert difference(reference, reference) is None

    class Faulty(Priced):
        def __init__(self, block):
            super().__init__("faulty", FakeClock(), 1, lambda values: values * np.float32(0.7))
            self._block = block

        def open(self, folder, stage, threads):
            opened = super().open(folder, stage, threads)
            return opened if stage.block == self._block else opened._session

    for block in (None, "peft", "head"):
        answers = probe.answers(StageChain(bundle.folder, bundle.manifest, Faulty(block), 1))
        assert difference(answers, reference) is not None, block


def test_differences_are_judged_by_their_norm():
    reference = Answers((1.0, 2.0), (0.3, -0.4))
    assert difference(replace(reference, rises=(0.3, -0.36)), reference) is None
    assert "off by 0.2" in (difference(replace(reference, rises=(0.3, -0.5)), reference) or "")


def test_what_is_not_built_in_is_refused_by_name(bundle):
    """None of the accelerators exists where the tests run: each says so, and none falls back to the CPU in silence."""
    found = accelerators(bundle.manifest)
    assert [each.name for each in found] == ["qnn", "xnnpack", "nnapi"]
    text = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((1, 4), dtype=np.int64))
    stage = bundle.manifest.stages[0]

    def use(provider):
        session = provider.open(bundle.folder, stage, 1)
        session.run_with_ort_values(["next_activation"], dict.fromkeys(stage.inputs, text))

    for provider in found:
        if provider.name not in str(onnxruntime.get_available_providers()).lower():
            with pytest.raises(BadInputError, match=r"has no \w+ExecutionProvider|onnxruntime-qnn"):
                use(provider)


def test_placement_is_what_onnx_runtime_says(bundle):
    options = onnxruntime.SessionOptions()
    graph = str(bundle.folder / "peft.onnx")
    assert placement(onnxruntime.InferenceSession(graph, options, providers=[CPU_PROVIDER])) == {}
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    found = placement(onnxruntime.InferenceSession(graph, options, providers=[CPU_PROVIDER]))
    assert found.keys() == {CPU_PROVIDER}
    assert found[CPU_PROVIDER] > 3
