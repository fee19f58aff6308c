from __future__ import annotations

import numpy as np

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.cost import Cost
from fwdllm_client.agent.feature_sums import FeatureSums
from fwdllm_client.connection.retry import Retry
from fwdllm_client.engine import ClassSum


def test_many_sums_are_sent_in_messages_of_a_bounded_size(link, coordinator, new_stop):
    width = 1 << 17
    sums = [ClassSum(label, 8, np.full(width, label, dtype=np.float32), 8) for label in range(10)]
    sender = FeatureSums(link, Retry(link.address, new_stop()), 8)
    cost = Cost(1.0, 2.0)
    window = sender.send(device_pb2.Assignment(assignment_id="j-0-1"), [str(i) for i in range(10)], sums, cost)

    assert [len(request.sums) for request in coordinator.feature_sums] == [4, 4, 2]
    assert [request.last for request in coordinator.feature_sums] == [False, False, True]
    assert [request.HasField("usage") for request in coordinator.feature_sums] == [False, False, True]
    assert max(request.ByteSize() for request in coordinator.feature_sums) < 3 << 20
    assert window.min_ms == 11
