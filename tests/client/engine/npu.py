"""Qualcomm's plugin as far as its library: what it demands of sessions, with the CPU computing behind it."""

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime

from fwdllm_client.engine.sessions import CPU_PROVIDER

PROVIDER = "QNNExecutionProvider"


class Options(onnxruntime.SessionOptions):
    """Keeps what it is told of devices."""

    npu = None

    def add_provider_for_devices(self, devices, settings):
        self.npu = (devices, settings)


class FakeNpu:
    """``fault`` changes what a stage returns; it may take no node (``takes``) or load no old file (``breaks``)."""

    def __init__(self):
        self.compiled = []
        self.loaded = []
        self.settings = {}
        self.fault = lambda values: values
        self.takes = True
        self.breaks = False

    def install(self, monkeypatch):
        package = SimpleNamespace(get_library_path=lambda: "/lib/qnn.so", get_qnn_htp_path=lambda: "/lib/htp.so")
        monkeypatch.setitem(sys.modules, "onnxruntime_qnn", package)
        self._registered = []
        self._real = onnxruntime.InferenceSession
        monkeypatch.setattr(onnxruntime, "register_execution_provider_library", self._register)
        devices = [SimpleNamespace(ep_name=CPU_PROVIDER), SimpleNamespace(ep_name=PROVIDER)]
        monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices[: 1 + len(self._registered)])
        monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
        monkeypatch.setattr(onnxruntime, "InferenceSession", self._session)

    def _register(self, *names):
        if self._registered:
            raise RuntimeError("the library is already registered")
        self._registered.append(names)

    def _session(self, graph, options, providers=None):
        if options.npu is None:
            return self._real(graph, options, providers=providers)
        assert self._registered == [(PROVIDER, "/lib/qnn.so")]
        assert [device.ep_name for device in options.npu[0]] == [PROVIDER]
        self.settings = options.npu[1]
        if "prepared" in graph:
            self.loaded.append(graph)
            if self.breaks:
                raise RuntimeError("QNN: the context binary is of another driver")
        # The fake one writes the graph with its sizes where the real one writes its compiled parts.
        entry = options.get_session_config_entry
        if self.takes and _has(options, "ep.context_enable") and entry("ep.context_enable") == "1":
            options.optimized_model_filepath = entry("ep.context_file_path")
        session = self._real(graph, options, providers=[CPU_PROVIDER])
        shapes = {value.name: tuple(value.shape) for value in session.get_inputs()}
        if not all(isinstance(size, int) for shape in shapes.values() for size in shape):
            raise RuntimeError(f"QNN: dynamic shapes are not supported: {shapes}")
        if "prepared" not in graph:
            self.compiled.append(shapes)
        return _Session(session, self)


def _has(options, name):
    try:
        return bool(options.get_session_config_entry(name))
    except Exception:
        return False


class _Session:
    def __init__(self, session, npu):
        self._session = session
        self._npu = npu

    def get_inputs(self):
        return self._session.get_inputs()

    def run(self, outputs, feeds, options=None):
        return [np.asarray(self._npu.fault(value)) for value in self._session.run(outputs, feeds, options)]

    def get_provider_graph_assignment_info(self):
        return [SimpleNamespace(ep_name=PROVIDER if self._npu.takes else CPU_PROVIDER, get_nodes=lambda: [None] * 3)]
