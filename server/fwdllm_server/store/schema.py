"""The coordinator's tables. Times are seconds since 1970 UTC; blobs are protobuf messages of protos/fwdllm/v1."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("expires_at", Float, nullable=False),
    # The key that used it: the same device may repeat a call whose answer was lost, nobody else may.
    Column("used_by_key_sha256", String(64)),
)

devices = Table(
    "devices",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("key_sha256", String(64), nullable=False, unique=True),
    Column("enrolled_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("last_seen_at", Float),
    Column("training_examples", BigInteger, nullable=False, default=0),
    Column("software", String(256), nullable=False, default=""),
    # A Conditions message as the device said it last.
    Column("conditions", LargeBinary),
    # When the newest certificate that it has shown was issued; older ones are refused.
    Column("certificates_from", Float, nullable=False, default=0.0),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("spec_toml", Text, nullable=False),
    # JSON, see config/resolved_spec.py; null for a job that an older version submitted.
    Column("resolved_spec", Text),
    Column("base_folder", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("message", Text, nullable=False, default=""),
    Column("rounds_wanted", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    # Set when the model is prepared; the manifest already when it is exported.
    Column("header", LargeBinary),
    Column("manifest_sha256", String(64)),
    # Of a job whose head is made from feature sums: θ without it, little-endian float32.
    Column("headless_sha256", String(64)),
    Column("head_init", String(16), nullable=False, default=""),
    Column("trainable_parameters", BigInteger, nullable=False, default=0),
    # Scalars that were sent and not used, by reason.
    Column("scalars_repeated", BigInteger, nullable=False, default=0),
    Column("scalars_late", BigInteger, nullable=False, default=0),
    Column("scalars_unusable", BigInteger, nullable=False, default=0),
    # An operator's: a paused job begins no round, and of jobs that wait for devices the highest priority is first.
    Column("paused", Boolean, nullable=False, default=False),
    Column("priority", Integer, nullable=False, default=0),
    # Of a job that diverged: the last version that is of use.
    Column("good_version", BigInteger),
    # When it last got devices: of equal priorities the one that has waited longest is first.
    Column("selected_at", Float),
    # An operator's: when a job last went on that was paused or had ended, and the version at which it got more rounds.
    Column("resumed_at", Float),
    Column("extended_from", BigInteger),
)

rounds = Table(
    "rounds",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("phase", String(16), nullable=False),
    Column("phase_since", Float, nullable=False),
    # Of the weights that the round's scalars are measured at.
    Column("version", BigInteger, nullable=False),
    # JSON: the blocks with their directions, step lengths and batch sizes; see algorithm/plan.py.
    Column("plan", Text, nullable=False, default="[]"),
    Column("variance", Float, nullable=False, default=0.0),
    Column("variance_threshold", Float, nullable=False, default=0.0),
    Column("reason", Text, nullable=False, default=""),
)

assignments = Table(
    "assignments",
    metadata,
    Column("id", String(96), primary_key=True),
    Column("job_id", String(64), nullable=False),
    Column("round", BigInteger, nullable=False),
    Column("device_id", ForeignKey("devices.id"), nullable=False),
    Column("state", String(16), nullable=False),
    Column("tasks", LargeBinary, nullable=False),
    Column("directions", Integer, nullable=False),
    Column("evaluate", Boolean, nullable=False, default=False),
    Column("expires_at", Float, nullable=False),
    # When its device fetched it; null until then.
    Column("taken_at", Float),
    # Example-passes that it is expected to cost, counted as devices count them.
    Column("passes", Float, nullable=False, default=0.0, server_default="0"),
    # What a federated evaluation found; total 0 until it is in.
    Column("correct", BigInteger, nullable=False, default=0),
    Column("total", BigInteger, nullable=False, default=0),
    # Of question answering the sum of F1; null for other tasks.
    Column("f1", Float),
    # Every check-in asks for the open assignments of one device.
    Index("assignments_by_device", "device_id", "state"),
    # Every transition asks for the assignments of one round.
    Index("assignments_by_round", "job_id", "round"),
)

leases = Table(
    "leases",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("holder", String(512), nullable=False),
    # Higher with every taking: an older one is worth nothing.
    Column("token", BigInteger, nullable=False),
    # By the database's clock.
    Column("expires_at", Float, nullable=False),
)

participation = Table(
    "participation",
    metadata,
    Column("device_id", ForeignKey("devices.id"), primary_key=True),
    # Since 1970, UTC.
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("assignments", Integer, nullable=False),
)

waiting = Table(
    "waiting",
    metadata,
    Column("device_id", ForeignKey("devices.id"), primary_key=True),
    Column("coordinator", String(512), nullable=False),
    Column("at", Float, nullable=False),
    # A CheckInRequest with labels, capabilities and jobs.
    Column("profile", LargeBinary, nullable=False),
    # Every coordinator asks every second for those that are new.
    Index("waiting_by_time", "at"),
)

scalars = Table(
    "scalars",
    metadata,
    # The primary key is what counts every scalar once: one row for each seed of a round, or where several devices
    # measure each direction, one for each of them: 0, 1, …
    Column("job_id", String(64), primary_key=True),
    Column("round", BigInteger, primary_key=True),
    Column("seed", BigInteger, primary_key=True),
    Column("copy", Integer, primary_key=True, autoincrement=False, default=0),
    Column("assignment_id", String(96), nullable=False),
    Column("device_id", String(64), nullable=False),
    Column("value", BigInteger, nullable=False),
)

scalar_spans = Table(
    "scalar_spans",
    metadata,
    # Packed scalars of consecutive seeds, those of one message: the primary key counts them once, since a device sends
    # the directions of a frame, which are its alone, in their order.
    Column("job_id", String(64), primary_key=True),
    Column("round", BigInteger, primary_key=True),
    Column("first_seed", BigInteger, primary_key=True, autoincrement=False),
    Column("length", Integer, nullable=False),
    Column("assignment_id", String(96), nullable=False),
    Column("device_id", String(64), nullable=False),
    # Half precision, little-endian; see fwdllm_common.packing.
    Column("halves", LargeBinary, nullable=False),
    # Every message asks what is there of its assignment.
    Index("scalar_spans_by_assignment", "assignment_id"),
)

aggregations = Table(
    "aggregations",
    metadata,
    # Secure aggregation of a round that has not closed (docs/privacy.md).
    Column("job_id", String(64), primary_key=True),
    Column("round", BigInteger, primary_key=True, autoincrement=False),
    Column("session", LargeBinary, nullable=False),
    Column("step", String(16), nullable=False),
    Column("step_since", Float, nullable=False),
    # Of the scalars over the cohort, int64, little-endian; null until it is made.
    Column("sum", LargeBinary),
    # Weights of those that are in the sum, together.
    Column("weight", BigInteger, nullable=False, default=0),
)

aggregation_members = Table(
    "aggregation_members",
    metadata,
    Column("assignment_id", String(96), primary_key=True),
    Column("job_id", String(64), nullable=False),
    Column("round", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("weight", Integer, nullable=False),
    # Its messages by step, messages of protos/fwdllm/v1; null until they are here.
    Column("keys", LargeBinary),
    Column("shares", LargeBinary),
    Column("masked", LargeBinary),
    Column("unmasking", LargeBinary),
    # An AggregateResponse, what its message of this step is made of; null for those that are out of it.
    Column("inbox", LargeBinary),
    Index("aggregation_members_by_round", "job_id", "round"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("entry", LargeBinary, nullable=False),
    Column("directions", BigInteger, nullable=False),
    Column("theta_digest", LargeBinary, nullable=False),
    Column("committed_at", Float, nullable=False),
    # JSON: the scales of each block's scalars in the last rounds; see algorithm/robust_aggregation.py.
    Column("scales", Text, nullable=False, default="{}"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("sha256", String(64), nullable=False),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    # Of question answering the mean F1, with the share of exact matches beside it.
    Column("accuracy", Float, nullable=False),
    Column("loss", Float, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("exact_match", Float),
    # On the rows that choose the version to export; null where the job keeps none apart.
    Column("validation_accuracy", Float),
    Column("validation_loss", Float),
)

job_devices = Table(
    "job_devices",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("device_id", ForeignKey("devices.id"), primary_key=True),
    Column("scalars", BigInteger, nullable=False, default=0),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("example_passes", Float, nullable=False, default=0.0),
    # Null for a device that has not measured any.
    Column("joules", Float),
    # Seconds and passes again, the past counting less and less: their quotient is the device's speed.
    Column("recent_seconds", Float, nullable=False, default=0.0),
    Column("recent_passes", Float, nullable=False, default=0.0),
    # Likewise by the coordinator's own clock and count, waiting for the device included.
    Column("observed_seconds", Float, nullable=False, default=0.0, server_default="0"),
    Column("observed_passes", Float, nullable=False, default=0.0, server_default="0"),
    # Assignments in a row of which nothing came, and when the last of them was given up.
    Column("failures", Integer, nullable=False, default=0, server_default="0"),
    Column("failed_at", Float),
    Column("peak_rss_bytes", BigInteger, nullable=False, default=0),
    Column("bytes_sent", BigInteger, nullable=False, default=0),
    Column("bytes_received", BigInteger, nullable=False, default=0),
    Column("artifact_bytes", BigInteger, nullable=False, default=0),
    # The device's own counters when last heard; they start again with its process.
    Column("last_bytes_sent", BigInteger, nullable=False, default=0),
    Column("last_bytes_received", BigInteger, nullable=False, default=0),
    Column("last_artifact_bytes", BigInteger, nullable=False, default=0),
    # What the device's last known-answer test on the job's bundle found, and when; null before the first.
    Column("signal_to_noise", Float),
    Column("tested_at", Float),
    # Why the device cannot do the job, as it said last, and when it is asked again; null if it has said no such thing.
    Column("failure", String),
    Column("failure_message", String),
    Column("failed_until", Float),
    # Whether its scalars go with the other devices': algorithm.robust_aggregation.Reputation.
    Column("votes", Float, nullable=False, default=0.0, server_default="0"),
    Column("vote_rounds", Float, nullable=False, default=0.0, server_default="0"),
)

releases = Table(
    "releases",
    metadata,
    # Of a job with differential privacy: how many noised sums a device is in (docs/privacy.md).
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("device_id", ForeignKey("devices.id"), primary_key=True),
    Column("releases", BigInteger, nullable=False),
)

feature_sums = Table(
    "feature_sums",
    metadata,
    # The primary key is what counts every device's sum of a class once.
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("device_id", ForeignKey("devices.id"), primary_key=True),
    Column("label", Integer, primary_key=True, autoincrement=False),
    Column("rows", BigInteger, nullable=False),
    Column("features", LargeBinary, nullable=False),
)
