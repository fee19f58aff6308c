from __future__ import annotations

import json
import time
from dataclasses import replace

import onnx
import pytest
from client.engine.providers import FakeClock, Priced
from helpers.undemanding import ask_for_nothing

from fwdllm_client.cli import doctor
from fwdllm_client.cli.main import run_command
from fwdllm_client.conditions import Conditions
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.engine.sessions import Cpu
from fwdllm_client.engine.tiny_bundle import BUNDLE_FOLDER, ENOUGH, bundle_signal_to_noise, providers_tried
from fwdllm_common.doctor import examine, room
from fwdllm_common.manifest import MANIFEST_FILE, Manifest
from fwdllm_server.model.export import OPSET

DAY_S = 86_400


class Sensors:
    def __init__(self, **conditions):
        self._conditions = Conditions(**conditions)

    def read(self):
        return self._conditions


@pytest.fixture
def home(tmp_path, coordinator):
    """A device that has joined, on a coordinator whose enrolment port is open."""
    home = ClientHome(tmp_path / "home")
    home.save_identity(replace(coordinator.identity(), expires_unix_s=int(time.time()) + 60 * DAY_S))
    ask_for_nothing(home.folder)
    return home


@pytest.fixture
def examined(home):
    """The findings by name; with a clock that is some seconds off, if asked for."""

    def run(off_s=0.0, **conditions):
        sensors = Sensors(**{"charging": True, "metered": False, **conditions})
        return dict(examine(doctor.checks(home, sensors, clock=lambda: time.time() + off_s)))

    return run


def test_all_is_well_on_a_joined_device(home, coordinator, capsys):
    assert run_command(["doctor", "--home", str(home.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    states = {fact["check"]: fact["state"] for fact in found}
    assert states.pop("sensors") in ("ok", "warning")  # as this machine is
    assert set(states.values()) == {"ok"}
    assert {"software", "generator", "inference", "disk", "memory", "model", "certificate", "coordinator"} <= set(
        states
    )
    assert coordinator.check_ins == [], "an examination is no check-in"


def test_before_joining_it_says_how_to(tmp_path, capsys):
    assert run_command(["doctor", "--home", str(tmp_path / "new")]) == 1
    said = capsys.readouterr()
    assert "failed   certificate" in said.out
    assert "next: on the coordinator: fwdllm-server enroll --name NAME, then here: fwdllm-client join TOKEN" in said.out
    assert "error[failed]: 1 of 9 checks failed: certificate" in said.err


@pytest.mark.parametrize(
    ("off_s", "state", "words"),
    [
        (0, "ok", "valid until"),
        (55 * DAY_S, "warning", "expires"),
        (61 * DAY_S, "failed", "expired"),
        (-DAY_S, "failed", "set the clock"),
    ],
)
def test_certificate_and_clock(examined, off_s, state, words):
    verdict = examined(off_s)["certificate"]
    assert verdict.state == state
    assert words in f"{verdict.found} {verdict.next}"


def test_a_coordinator_that_is_gone(examined, coordinator):
    coordinator.stop()
    found = examined()
    assert found["coordinator"].state == "failed"
    assert f"nothing answers at {coordinator.address}" in found["coordinator"].found
    assert found["coordinator"].next == "more: explain unreachable"
    assert found["enrolment"].state == "warning", "it is needed only to join"


def test_a_coordinator_of_another_authority(home, new_authority, coordinator, examined, monkeypatch):
    monkeypatch.setattr(doctor, "_ANSWER_S", 1.0)
    home.save_identity(replace(home.load_identity(), ca=new_authority().pem))
    assert examined()["coordinator"].state == "failed"


def test_unknown_readings_are_named_with_what_to_install(home, examined):
    home.settings.write_text("")
    verdict = examined(charging=None)["sensors"]
    assert verdict.state == "warning"
    assert "with charging unknown the agent does not work" in verdict.found
    assert "pkg install termux-api" in verdict.next


def test_what_holds_the_device_is_named(home, examined):
    home.settings.write_text("")
    verdict = examined(metered=True)["sensors"]
    assert (verdict.state, "held now: the network is metered" in verdict.found) == ("warning", True)


def test_the_fetched_model_is_tried(home, examined):
    sha256 = "0" * 64
    (home.cache / "files").mkdir(parents=True)
    (home.cache / "bundles").mkdir()
    (home.cache / "bundles" / sha256).symlink_to(BUNDLE_FOLDER)
    (home.cache / "files" / sha256).write_bytes((BUNDLE_FOLDER / MANIFEST_FILE).read_bytes())
    assert "reproduces the coordinator's scalars" in examined()["model"].found


def test_known_scalars_tell_a_right_provider_from_a_wrong_one():
    right, gone = Priced("right", FakeClock(), 0.0), Priced("gone", FakeClock(), 0.0, opens=False)
    wrong = Priced("wrong", FakeClock(), 0.0, fault=lambda value: value.round(2) if value.dtype == "float32" else value)
    tried = dict(providers_tried([Cpu(), right, gone, wrong]))
    assert tried["cpu"] > 100
    assert tried["right"] > 100
    assert "gone: no such device" in tried["gone"]
    assert tried["wrong"] < ENOUGH


def test_a_cpu_that_computes_wrong_fails(monkeypatch):
    monkeypatch.setattr(doctor, "providers_tried", lambda: [("cpu", 0.5)])
    verdict = doctor.inference()
    assert (verdict.state, verdict.next) == ("failed", "pip install --upgrade onnxruntime")


def test_the_tiny_bundle_is_whole():
    manifest = Manifest.from_bytes((BUNDLE_FOLDER / MANIFEST_FILE).read_bytes())
    assert {path.name for path in BUNDLE_FOLDER.iterdir()} == {MANIFEST_FILE, *(file.name for file in manifest.files)}
    assert bundle_signal_to_noise(BUNDLE_FOLDER, replace(manifest, known_answers=None)) is None


def test_the_tiny_bundle_is_what_models_are_exported_as():
    graphs = [onnx.load(path, load_external_data=False) for path in BUNDLE_FOLDER.glob("*.onnx")]
    assert {opset.version for graph in graphs for opset in graph.opset_import} == {OPSET}, "make tiny-bundle"


def test_weights_that_differ_are_noticed(examined, monkeypatch):
    monkeypatch.setattr("fwdllm_common.ledger.LedgerEntry.from_bytes", _with_another_seed())
    verdict = examined()["generator"]
    assert verdict.state == "failed"
    assert "adam with rademacher directions" in verdict.found


def _with_another_seed():
    from fwdllm_common.ledger import LedgerEntry

    read = LedgerEntry.from_bytes

    def changed(data):
        entry = read(data)
        first = replace(entry.updates[0], seeds=entry.updates[0].seeds + 1)
        return replace(entry, updates=(first, *entry.updates[1:]))

    return changed


def test_room():
    assert room(2_000_000_000, 1_000_000_000, "a model").state == "ok"
    assert room(500_000_000, 1_000_000_000, "a model").found == "0.5 GB free, a model needs about 1.0 GB"
