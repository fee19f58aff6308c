"""A coordinator proxy that logs every message before it is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from fwdllm.v1 import device_pb2
from fwdllm_client.connection.sent_log import SentLog
from fwdllm_client.connection.transport import CallFailedError, Coordinator, Stream
from fwdllm_client.policy.policy import Privacy


class RecordingCoordinator:
    """Passes messages on to ``coordinator`` once they are in the ``log``, whose text has the bounds of ``privacy``."""

    def __init__(self, coordinator: Coordinator, log: SentLog, privacy: Privacy = Privacy()) -> None:  # noqa: B008 - frozen
        self.address = coordinator.address
        self.traffic = coordinator.traffic
        self._coordinator = coordinator
        self._log = log
        self._privacy = privacy
        self._work: dict[str, tuple[str, int]] = {}

    def check_in(self, request: device_pb2.CheckInRequest) -> device_pb2.CheckInResponse:
        """Log and send a check-in; repeated check-ins with the same profile share a line."""
        lasting = device_pb2.CheckInRequest()
        lasting.CopyFrom(request)
        lasting.ClearField("conditions")
        lasting.ClearField("failures")
        likeness = hashlib.sha256(lasting.SerializeToString(deterministic=True)).hexdigest()
        self._log.add(
            f"check-in {likeness}",
            f"check-in: {_kind(request)}; {request.training_examples} rows to train on and "
            f"{request.validation_examples} to validate; {request.memory_bytes >> 20} MiB of memory; {request.software}"
            "; battery, network and heat, why the device does not work, and which jobs its owner allows",
        )
        for failure in request.failures:
            self._log.add(
                f"failure {failure.assignment_id}",
                f"that this device cannot do it: {failure.code}, {failure.message}",
                *self._of(failure.assignment_id),
            )
        answer = self._coordinator.check_in(request)
        if answer.HasField("assignment"):
            # A job's name must not control the terminal on which the owner reads it.
            job = "".join(character if character.isprintable() else "?" for character in answer.assignment.job_name)
            self._work[answer.assignment.assignment_id] = (job, answer.assignment.round)
        return answer

    def get_artifact(self, request: device_pb2.GetArtifactRequest) -> Stream[device_pb2.ArtifactChunk]:
        """Log and send the request for a file."""
        self._log.add("file", "the hash of a file of a model, to get it")
        return self._coordinator.get_artifact(request)

    def get_weights(self, request: device_pb2.GetWeightsRequest) -> Stream[device_pb2.WeightsChunk]:
        """Log and send the request for weights."""
        self._log.add("weights", "which version of a job's weights the device has, to get the newest")
        return self._coordinator.get_weights(request)

    def report(self, requests: Iterator[device_pb2.ReportRequest]) -> Stream[device_pb2.ReportResponse]:
        """Log and send each report."""
        noted = _Kept(map(self._noted, requests))
        return _Answers(self._coordinator.report(noted), noted)

    def report_feature_sums(self, request: device_pb2.FeatureSumsRequest) -> device_pb2.FeatureSumsResponse:
        """Log and send sums of features."""
        self._log.add(
            f"sums {request.assignment_id}",
            "for each class the sum of the features of its rows, which the owner allows, and the resources they took",
            *self._of(request.assignment_id),
            sum(len(item.features) for item in request.sums),
        )
        return self._coordinator.report_feature_sums(request)

    def report_self_test(self, request: device_pb2.SelfTestRequest) -> device_pb2.SelfTestResponse:
        """Log and send the result of a known-answer test."""
        self._log.add(
            f"known-answer test {request.assignment_id}",
            "how exactly this device computes, measured on texts that came with the model",
            *self._of(request.assignment_id),
            1,
        )
        return self._coordinator.report_self_test(request)

    def aggregate(self, request: device_pb2.AggregateRequest) -> device_pb2.AggregateResponse:
        """Log and send a message of secure aggregation; a repeated one shares a line."""
        kind = request.WhichOneof("message") or "keys"
        contents, numbers = {
            "keys": ("new public keys and a commitment, to sum scalars with other devices", 3),
            "shares": (
                "for each of some other devices sealed shares of what masks the scalars",
                len(request.shares.peers),
            ),
            "masked": (
                f"directional derivatives of the loss over {self._privacy.min_batch_rows.description}, masked: only "
                f"their sum over {self._privacy.min_cohort} devices or more can be read",
                len(request.masked) // 8,
            ),
            "unmasking": (
                "for each of some other devices a share of what unmasks the sum",
                len(request.unmasking.self_masks) + len(request.unmasking.masking_keys),
            ),
        }[kind]
        self._log.add(f"{kind} {request.assignment_id}", contents, *self._of(request.assignment_id), numbers)
        return self._coordinator.aggregate(request)

    def renew_certificate(self, request: device_pb2.RenewCertificateRequest) -> device_pb2.RenewCertificateResponse:
        """Log and send the request for a new certificate."""
        self._log.add("renewal", "a new public key, to renew the certificate")
        return self._coordinator.renew_certificate(request)

    def _noted(self, request: device_pb2.ReportRequest) -> device_pb2.ReportRequest:
        work = self._of(request.assignment_id)
        derivatives = (
            f"directional derivatives of the loss over {self._privacy.min_batch_rows.description}; of a "
            f"block at one θ there are at most {self._privacy.max_directions}; and the resources they took"
        )
        count = len(request.derivatives) + len(request.halves) // 2
        self._log.add(f"scalars {request.assignment_id}", derivatives, *work, count)
        if request.HasField("evaluation"):
            counts = "how many of the validation rows are predicted right, and how many there are"
            if request.evaluation.HasField("f1"):
                counts += ", and the sum of how well their answers overlap with the right ones (F1)"
            self._log.add(f"counts {request.assignment_id}", counts, *work, 2 + request.evaluation.HasField("f1"))
        return request

    def _of(self, assignment_id: str) -> tuple[str, int]:
        """Return job and round; of an assignment from an earlier run of the agent only the id is known."""
        return self._work.get(assignment_id, (f"of assignment {assignment_id}", 0))


def _kind(request: device_pb2.CheckInRequest) -> str:
    return f"data for {request.task}" if request.task else f"labels {', '.join(request.labels)}"


class _Kept(Iterator[device_pb2.ReportRequest]):
    """``requests`` up to an error, which is kept: gRPC reads them in its own thread and only ends the call."""

    def __init__(self, requests: Iterator[device_pb2.ReportRequest]) -> None:
        self.error: Exception | None = None
        self._requests = requests

    def __next__(self) -> device_pb2.ReportRequest:
        try:
            return next(self._requests)
        except StopIteration:
            raise
        except Exception as error:  # raised again to the reader of the answers
            self.error = error
            raise StopIteration from error


class _Answers(Iterator[device_pb2.ReportResponse]):
    """The answers to ``requests``, or the error that ended them: a full disk must not look like a lost connection."""

    def __init__(self, answers: Stream[device_pb2.ReportResponse], requests: _Kept) -> None:
        self._answers = answers
        self._requests = requests

    def __next__(self) -> device_pb2.ReportResponse:
        try:
            return next(self._answers)
        except (StopIteration, CallFailedError):
            if self._requests.error is not None:
                raise self._requests.error from None
            raise

    def cancel(self) -> object:
        """End the stream."""
        return self._answers.cancel()
