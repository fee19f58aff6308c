"""The roles that may call each method. A method that is not listed is refused to everyone."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from fwdllm_server.security.roles import Role


class Anyone(Enum):
    """Any caller, with or without a certificate."""

    ANYONE = "anyone"


CALLERS: Mapping[str, Role | Anyone] = {
    "/grpc.health.v1.Health/Check": Anyone.ANYONE,
    "/grpc.health.v1.Health/Watch": Anyone.ANYONE,
    "/fwdllm.v1.EnrolmentService/Enroll": Anyone.ANYONE,
    "/fwdllm.v1.DeviceService/CheckIn": Role.DEVICE,
    "/fwdllm.v1.DeviceService/GetArtifact": Role.DEVICE,
    "/fwdllm.v1.DeviceService/GetWeights": Role.DEVICE,
    "/fwdllm.v1.DeviceService/Report": Role.DEVICE,
    "/fwdllm.v1.DeviceService/ReportFeatureSums": Role.DEVICE,
    "/fwdllm.v1.DeviceService/ReportSelfTest": Role.DEVICE,
    "/fwdllm.v1.DeviceService/Aggregate": Role.DEVICE,
    "/fwdllm.v1.DeviceService/RenewCertificate": Role.DEVICE,
    "/fwdllm.v1.OperatorService/SubmitJob": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/ListJobs": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/GetJob": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/WatchJob": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/StopJob": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/PauseJob": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/ResumeJob": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/SetJobPriority": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/ExtendJob": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/ExportAdapter": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/GetJobHistory": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/GetJobSpec": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/CreateJoinToken": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/ListDevices": Role.OPERATOR,
    "/fwdllm.v1.OperatorService/RevokeDevice": Role.OPERATOR,
}
