"""What can be inferred of a device, and what its privacy budget is, in words and as a message."""

from __future__ import annotations

from fwdllm.v1 import operator_pb2
from fwdllm_common.secure_aggregation import MIN_MEMBERS
from fwdllm_server.algorithm.accountant import epsilon_after, noise_multiplier
from fwdllm_server.config.job_sections import PrivacySection


def what_is_inferred(section: PrivacySection, budget: operator_pb2.PrivacyBudget | None) -> str:
    """Return what the coordinator, and who has the model, can infer of a device."""
    if section.secure_aggregation:
        noised = "" if budget is None else ", each with noise that devices have added"
        return f"scalars are summed over {MIN_MEMBERS} devices or more before the coordinator can read them{noised}"
    if budget is not None:
        return (
            "the coordinator reads each device's own scalars, from which it can infer the gradient of that device's "
            "batch; all others have a model whose rounds are clipped sums with noise"
        )
    return (
        "the coordinator reads each device's own scalars, from which it can infer the gradient of that device's batch, "
        "and from the gradient possibly texts; with [privacy] secure_aggregation it reads only sums over devices"
    )


def privacy_budget(section: PrivacySection, releases: int) -> operator_pb2.PrivacyBudget | None:
    """Return the budget of a device that is in so many releases; None without differential privacy."""
    budget = section.budget
    if budget is None:
        return None
    return operator_pb2.PrivacyBudget(
        epsilon=budget.epsilon,
        delta=budget.delta,
        epsilon_spent=epsilon_after(budget, releases),
        clip=budget.clip,
        noise_multiplier=noise_multiplier(budget),
        releases=releases,
        releases_allowed=budget.releases,
    )
