"""``fwdllm-server health``: check whether the running server serves; a container's health check."""

from __future__ import annotations

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from fwdllm.v1.operator_pb2 import ListJobsRequest
from fwdllm.v1.operator_pb2_grpc import OperatorServiceStub
from fwdllm_common.errors import FwdllmError
from fwdllm_server.cli.calls import ANSWER_S, operator_channel
from fwdllm_server.cli.formatting import printable
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption
from fwdllm_server.cli.progress import ACTIVE
from fwdllm_server.views.message_json import print_json


def health(folder: FolderOption = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """Check the server's health. Exit codes: 0 serving, 1 store not writable or server overloaded, 3 no answer."""
    with operator_channel(folder) as channel:
        answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=ANSWER_S)
        serves = answer.status == HealthCheckResponse.SERVING
        jobs = OperatorServiceStub(channel).ListJobs(ListJobsRequest(), timeout=ANSWER_S).jobs if serves else ()
    waiting = {printable(job.name): printable(job.message) for job in jobs if job.state in ACTIVE and job.message}
    word = HealthCheckResponse.ServingStatus.Name(answer.status).lower()
    if json:
        print_json({"status": word, "waiting": waiting})
    if not serves:
        raise FwdllmError("the server reports that it cannot serve now; its log and /healthz say why")
    if not json:
        print(word, *(f"job {name} waits: {why}" for name, why in waiting.items()), sep="\n")
