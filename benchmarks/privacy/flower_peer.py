# mypy: ignore-errors
# ruff: noqa: ARG002, D102 - the methods are Flower's
"""Flower's SecAgg+ as it comes: one aggregation of vectors in this process, run by Flower's own environment.

``python flower_peer.py COHORT LENGTH PEERS`` prints CPU seconds and the bytes of the contents of messages, the mean
over the clients, and the CPU seconds of the server. The workflow and the clients' mod are Flower's; the grid between
them is ours, a function call, so that nothing of a network is counted. The models that Flower sends along are empty.
"""

import json
import sys
import time

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.supercore.task_identity import TaskIdentity

EMPTY = Parameters([], "numpy.ndarray")


class Proxy(ClientProxy):
    """A client as the strategy knows it."""

    def __init__(self, node_id):
        super().__init__(str(node_id))
        self.node_id = node_id

    get_properties = get_parameters = fit = evaluate = reconnect = lambda *_: None


class Fleet(FedAvg):
    """All clients take part; the sum is kept."""

    def __init__(self, proxies):
        super().__init__()
        self.proxies, self.found = proxies, None

    def configure_fit(self, server_round, parameters, client_manager):
        return [(proxy, FitIns(EMPTY, {})) for proxy in self.proxies]

    def aggregate_fit(self, server_round, results, failures):
        self.found = results[0][1].parameters
        return self.found, {}


class Grid:
    """Calls each client in its turn, and counts."""

    def __init__(self, nodes, length):
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in nodes}
        self.vectors = {node: np.random.default_rng(node).normal(size=length).astype(np.float32) for node in nodes}
        self.up = self.down = 0
        self.client_s = 0.0

    def send_and_receive(self, messages, *, timeout=None):
        return [self._call(message) for message in messages]

    def _call(self, message):
        node = message.metadata.dst_node_id
        sent = recorddict_to_proto(message.content)
        self.down += sent.ByteSize()
        message.content = recorddict_from_proto(sent)  # what the client takes out of it stays in for the others
        began = time.process_time()
        answer = secaggplus_mod(message, self.contexts[node], self._fit)
        self.client_s += time.process_time() - began
        self.up += recorddict_to_proto(answer.content).ByteSize()
        answer.metadata._src_node_id = node
        return answer

    def _fit(self, message, context):
        vector = ndarrays_to_parameters([self.vectors[message.metadata.dst_node_id]])
        result = FitRes(Status(Code.OK, ""), vector, 1, {})
        return Message(compat.fitres_to_recorddict(result, True), reply_to=message)


def main(cohort, length, peers):
    """Run one aggregation, check its mean, and print what it cost."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    nodes = list(range(1, cohort + 1))
    grid, strategy = Grid(nodes, length), Fleet([Proxy(node) for node in nodes])
    context = LegacyContext(Context(1, 0, {}, RecordDict(), {}), None, strategy, SimpleClientManager())
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    context.state.array_records[MAIN_PARAMS_RECORD] = ArrayRecord()
    shares = 1.0 if peers >= cohort - 1 else peers + 1
    threshold = 2 / 3 if shares == 1.0 else round(shares * 2 / 3)
    began = time.process_time()
    SecAggPlusWorkflow(shares, threshold)(grid, context)
    server_s = time.process_time() - began - grid.client_s
    (mean,) = parameters_to_ndarrays(strategy.found)
    expected = np.mean(list(grid.vectors.values()), axis=0)
    assert np.abs(mean - expected).max() < 1e-2, "Flower's mean is not the clients'"
    costs = {"up": grid.up / cohort, "down": grid.down / cohort, "cpu_s": grid.client_s / cohort, "server_s": server_s}
    print(json.dumps(costs))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
