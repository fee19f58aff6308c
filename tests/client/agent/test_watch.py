"""What keeps the agent from working ends a run of the model, however long it would take."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from client.engine.tiny_bundle import make_dataset, make_theta, write_bundle
from onnx import helper, numpy_helper

from fwdllm_client.agent.watch import watching
from fwdllm_client.engine import Engine
from fwdllm_client.engine.interruption import INTERRUPTION, RunEndedError
from fwdllm_client.engine.sessions import open_session, session_options
from fwdllm_common.manifest import BundleFile

_SIDE, _PRODUCTS = 768, 600
"""Seconds of products of matrices for each row."""

_STUCK = """
import hashlib, os, signal, sys, threading
from fwdllm_client.agent.signals import ending_at_signals
with ending_at_signals(threading.Event(), grace_s=0.1):
    threading.Timer(0.1, os.kill, (os.getpid(), getattr(signal, sys.argv[1]))).start()
    while True:  # a single step of the main thread, for hours
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.fixture
def slow(tmp_path):
    """The tiny bundle, whose first stage takes long and then adds nothing."""
    written = write_bundle(tmp_path / "bundle")
    path = written.folder / "prefix.onnx"
    model = onnx.load(path)
    graph = model.graph
    graph.node[-1].output[0] = "usual"
    constants = {
        "side": np.array([_SIDE, _SIDE]),
        "matrix": np.zeros((_SIDE, _SIDE), np.float32),
        "all": np.array([0, 1]),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    graph.node.append(helper.make_node("ReduceMax", ["mask"], ["anything"], keepdims=0))
    graph.node.append(helper.make_node("Expand", ["anything", "side"], ["product0"]))
    for index in range(_PRODUCTS):
        graph.node.append(helper.make_node("MatMul", [f"product{index}", "matrix"], [f"product{index + 1}"]))
    graph.node.append(helper.make_node("ReduceMax", [f"product{_PRODUCTS}", "all"], ["nothing"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["usual", "nothing"], ["next_activation"]))
    path.write_bytes(model.SerializeToString())
    prefix, *others = written.manifest.stages
    return replace(
        written,
        manifest=replace(written.manifest, stages=(replace(prefix, graph=BundleFile.of(path)), *others)),
    )


def test_a_run_ends_as_soon_as_the_agent_may_not_go_on(slow, tmp_path):
    rows = np.arange(2)
    with Engine(slow.folder, slow.manifest, make_dataset(), tmp_path / "cache", threads=1) as engine:
        with watching(lambda: True, every_s=0.01), pytest.raises(RunEndedError):
            engine.evaluate(make_theta(slow.manifest), rows)
        assert not INTERRUPTION.is_set


def test_what_cannot_be_asked_ends_a_run_too(slow, tmp_path):
    def broken():
        raise OSError

    with (
        Engine(slow.folder, slow.manifest, make_dataset(), tmp_path / "cache", threads=1) as engine,
        watching(broken, every_s=0.01),
        pytest.raises(RunEndedError),
    ):
        engine.evaluate(make_theta(slow.manifest), np.arange(2))


def test_nothing_is_loaded_any_more(bundle_folder):
    INTERRUPTION.set()
    try:
        with pytest.raises(RunEndedError):
            open_session(bundle_folder / "head.onnx", session_options(1))
    finally:
        INTERRUPTION.clear()
    assert open_session(bundle_folder / "head.onnx", session_options(1)).get_inputs()


@pytest.fixture
def bundle_folder(tmp_path):
    return write_bundle(tmp_path / "tiny").folder


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 0), ("SIGINT", 130)])
def test_a_signal_ends_a_process_whose_main_thread_does_not_return(name, code):
    assert subprocess.run([sys.executable, "-c", _STUCK, name]).returncode == code
