"""A privacy budget in words."""

from __future__ import annotations

from fwdllm.v1.operator_pb2 import PrivacyBudget


def budget_words(budget: PrivacyBudget) -> str:
    """Return the budget for people."""
    return (
        f"epsilon = {budget.epsilon_spent:.3g} of {budget.epsilon:g} at delta = {budget.delta:g}, after "
        f"{budget.releases:,} of {budget.releases_allowed:,} rounds of a device; clip {budget.clip:g}, noise "
        f"{budget.noise_multiplier:g} times that"
    )
