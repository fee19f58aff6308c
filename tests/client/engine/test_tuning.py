import json

import numpy as np
import pytest
from client.engine.providers import FakeClock, Priced
from client.engine.tiny_bundle import make_theta, write_bundle

from fwdllm_client.engine import DeviceEngines, tuning
from fwdllm_client.engine.tuning import BUDGET_S, Tuner


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(tuning, "_cores", lambda: 4)


@pytest.fixture
def tuner(bundle, dataset, clock, tmp_path):
    def make(price=2**-10, candidates=(), threads=0, bundle=bundle):
        cpu = Priced("cpu", clock, price)
        return Tuner(bundle.folder, bundle.manifest, dataset, candidates, cpu, threads, tmp_path / "tunings", clock)

    return make


def file(tmp_path):
    (path,) = (tmp_path / "tunings").iterdir()
    return path


def per_token(by_threads, by_tokens=lambda tokens: 1.0):
    return lambda threads, tokens: tokens * by_threads[threads] * by_tokens(tokens) / 1000


def test_as_many_threads_as_are_worth_it(tuner):
    found = tuner(per_token({4: 1.0, 2: 1.02, 1: 1.9})).measure()
    assert (found.threads, found.tokens_per_run) == (2, 128)
    assert tuner(per_token({4: 1.0, 2: 1.5, 1: 2.9})).measure().threads == 4
    assert tuner(per_token({4: 3.0, 2: 1.5, 1: 1.0})).measure().threads == 1


def test_threads_that_the_owner_chose_stay(tuner):
    assert tuner(per_token({3: 1.0}), threads=3).measure().threads == 3


@pytest.mark.parametrize(
    ("by_tokens", "best"),
    [
        (lambda tokens: 1.0, 128),
        (lambda tokens: 1.0 + 20 / tokens, 256),
        (lambda tokens: 1.0 + 300 / tokens, 512),
        (lambda tokens: 1.0 + tokens / 300, 128),
    ],
    ids=["flat", "a-little", "steep", "falling"],
)
def test_runs_are_as_large_as_is_worth_it(tuner, by_tokens, best):
    assert tuner(per_token({4: 1.0, 2: 2.0, 1: 4.0}, by_tokens)).measure().tokens_per_run == best


def test_time_runs_out_after_what_every_tuning_needs(tuner):
    slow = tuner(lambda threads, tokens: BUDGET_S)
    found = slow.measure()
    assert (found.threads, found.tokens_per_run) == (4, 256)
    assert len(slow._cpu.opened) == 1


def test_it_is_measured_once_for_a_model_and_its_threads(tuner, tmp_path):
    first = tuner().tuning()
    again = tuner(price=lambda threads, tokens: pytest.fail("measured again"))
    assert again.tuning() == first
    assert tuner(threads=1).tuning().threads == 1
    tuner(bundle=write_bundle(tmp_path / "other", seed=5)).tuning()
    assert len(list((tmp_path / "tunings").iterdir())) == 3


@pytest.mark.parametrize("what", ["onnxruntime", "processor"])
def test_another_version_or_processor_is_measured_again(tuner, tmp_path, monkeypatch, what):
    tuner().tuning()
    if what == "onnxruntime":
        monkeypatch.setattr("onnxruntime.__version__", "0.0.1")
    else:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text("Features : fp asimd i8mm\nCPU part : 0xd47\n")
        monkeypatch.setattr("fwdllm_client.engine.processor._CPUINFO", cpuinfo)
    tuner().tuning()
    assert len(list((tmp_path / "tunings").iterdir())) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda value: b"",
        lambda value: b"[]",
        lambda value: json.dumps(value).encode()[:-9],
        lambda value: json.dumps(value | {"format": 0}).encode(),
        lambda value: json.dumps(value | {"threads": -1}).encode(),
        lambda value: json.dumps(value | {"tokens_per_run": 10**9}).encode(),
        lambda value: json.dumps(value | {"attempts": [{"nonsense": 1}]}).encode(),
        lambda value: json.dumps({key: value[key] for key in value if key != "reference"}).encode(),
        lambda value: json.dumps(value | {"provider": "elsewhere"}).encode(),
    ],
)
def test_a_file_that_is_wrong_is_measured_again(tuner, tmp_path, change):
    first = tuner().tuning()
    path = file(tmp_path)
    path.write_bytes(change(json.loads(path.read_bytes())))
    again = tuner()
    assert again.tuning() == first
    assert again._cpu.opened
    assert json.loads(path.read_bytes())["provider"] == "cpu"


def test_a_folder_that_cannot_be_written_is_measured_again(tuner, tmp_path):
    (tmp_path / "tunings").touch()
    assert tuner().tuning().provider == "cpu"


def test_a_chosen_provider_is_checked_at_every_start(tuner, clock):
    npu = Priced("npu", clock, 1e-4)
    assert tuner(candidates=[npu]).tuning().provider == "npu"
    npu.opened.clear()
    subject = tuner(candidates=[npu])
    assert subject.tuning().provider == "npu"
    assert subject.provider(subject.tuning()) is npu
    assert npu.opened
    assert not subject._cpu.opened

    wrong = Priced("npu", clock, 1e-4, lambda values: values * 2)
    assert tuner(candidates=[wrong]).tuning().provider == "cpu"


def test_a_chosen_provider_that_is_gone_leaves_the_cpu(tuner, clock):
    tuner(candidates=[Priced("npu", clock, 1e-4)]).tuning()
    assert tuner(candidates=[Priced("npu", clock, 1e-4, opens=False)]).tuning().provider == "cpu"


class Crash(BaseException):
    """Ends the process, as far as the tuner can see."""


def crash(*args):
    raise Crash


@pytest.mark.parametrize("at_first", [True, False], ids=["when-first-tried", "after-it-was-chosen"])
def test_a_provider_that_ends_the_process_is_not_tried_again(tuner, clock, at_first):
    fine, crashing = Priced("npu", clock, 1e-4), Priced("npu", clock, 1e-4, fault=crash)
    if not at_first:
        assert tuner(candidates=[fine]).tuning().provider == "npu"
    with pytest.raises(Crash):
        tuner(candidates=[crashing]).tuning()
    crashing.opened.clear()
    for _ in range(2):
        found = tuner(candidates=[crashing]).tuning()
        assert found.provider == "cpu"
        assert "crashed the process" in found.attempts[0].refused
    assert tuner(candidates=[crashing]).measure().provider == "cpu"
    assert not crashing.opened


def test_a_provider_that_only_fails_may_be_tried_again(tuner, clock):
    assert tuner(candidates=[Priced("npu", clock, 1e-4, opens=False)]).tuning().provider == "cpu"
    assert tuner(candidates=[Priced("npu", clock, 1e-4)]).measure().provider == "npu"


def test_nnapi_is_tried_only_where_it_is_asked_for_and_then_stays(tuner, clock):
    nnapi = Priced("nnapi", clock, 1e-4)
    assert tuner(candidates=[nnapi]).tuning().provider == "cpu"
    assert not nnapi.opened
    assert tuner(candidates=[nnapi]).measure(opt_in=True).provider == "nnapi"
    assert tuner(candidates=[nnapi]).tuning().provider == "nnapi"


def test_a_device_opens_its_engine_as_tuned(bundle, dataset, tmp_path):
    engines = DeviceEngines(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", threads=1)
    found = engines.tuner.tuning()
    assert (found.provider, found.threads) == ("cpu", 1)
    assert found.seconds_per_token > 0
    with engines.open(found) as engine:
        result = engine.evaluate(make_theta(bundle.manifest), range(10))
    assert result.total == 10


def test_what_is_kept_of_a_bundle_is_known_before_it_is_made(bundle, dataset, theta, tmp_path):
    engines = DeviceEngines(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", threads=1)
    with engines.open(engines.tuner.tuning()) as engine:
        engine.evaluate(theta, np.arange(len(dataset)))
    made = {path: path.stat().st_size for path in (tmp_path / "cache").glob("*.activations")}
    assert made == engines.files


def test_a_small_limit_is_kept(bundle, dataset, theta, tmp_path):
    engines = DeviceEngines(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", threads=1, limit_bytes=2000)
    with engines.open(engines.tuner.tuning()) as engine:
        engine.evaluate(theta, np.arange(len(dataset)))
    made = {path: path.stat().st_size for path in (tmp_path / "cache").glob("*.activations")}
    assert sum(made.values()) <= sum(engines.files.values()) <= 2000
