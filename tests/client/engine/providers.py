"""Providers that this machine lacks: their sessions are the CPU's, with a price in seconds and faults of their own."""

import numpy as np
import onnxruntime

from fwdllm_client.engine.sessions import Cpu, open_session, placed_options


class FakeClock:
    """Stands still but for the price of what runs."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Priced(Cpu):
    """``price(threads, tokens)`` is what a run of so many tokens takes; ``fault`` changes what a stage returns."""

    def __init__(self, name, clock, price, fault=None, opens=True, nodes=None):
        self.name = name
        self.opened = []
        self._clock = clock
        self._price = price if callable(price) else lambda threads, tokens: price * tokens
        self._fault = fault
        self._opens = opens
        self._kept = []
        self._nodes = nodes

    def open(self, folder, stage, threads):
        if not self._opens:
            raise RuntimeError(f"{self.name}: no such device")
        self.opened.append((stage.block, threads))
        return _Session(super().open(folder, stage, 1), self, threads)


class FixedCpu:
    """Compiles for the CPU, which needs no fixed sizes: so the numbers of fixed shapes can be had on any machine."""

    name = "fixed"

    def compile(self, folder, stage, threads, sizes):
        return open_session(folder / stage.graph.name, placed_options(threads, sizes))


class _Session:
    def __init__(self, session, provider, threads):
        self._session = session
        self._provider = provider
        self._threads = threads

    def run_with_ort_values(self, outputs, feeds, options=None):
        tokens = np.prod(next(iter(feeds.values())).shape()[:2])
        provider = self._provider
        provider._clock.now += provider._price(self._threads, int(tokens))
        values = self._session.run_with_ort_values(outputs, feeds, options)
        if provider._fault is None:
            return values
        faulty = [provider._fault(value.numpy()) for value in values]
        provider._kept += faulty  # ONNX Runtime's values do not own what they are made from
        return [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in faulty]

    def get_provider_graph_assignment_info(self):
        return [_Part(name, count) for name, count in (self._provider._nodes or {}).items()]


class _Part:
    def __init__(self, name, count):
        self.ep_name = name
        self._count = count

    def get_nodes(self):
        return [None] * self._count
