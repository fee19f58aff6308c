"""Early stopping: a job whose validation loss falls no more has learnt what it will (Prechelt 1998)."""

from __future__ import annotations

from math import isfinite

from fwdllm_server.rounds.context import RoundContext
from fwdllm_server.store import ledger


def early_stop(context: RoundContext) -> str:
    """Return why a job with a ``patience`` ends before its last round; empty while it goes on.

    Only evaluated versions count: those that are behind with their evaluation end no job.
    """
    patience = context.job.spec.rounds.patience
    if not patience:
        return ""
    found = ledger.evaluations_of(context.connection, context.job.id)
    losses = {record.version: record.validation_loss for record in found if record.validation_loss is not None}
    usable = {version: loss for version, loss in losses.items() if isfinite(loss)}
    if not usable:
        return ""
    best = min(usable, key=lambda version: (usable[version], version))
    if max(losses) - best < patience:
        return ""
    return (
        f"stopped early: none of the {max(losses) - best} rounds after version {best} has a lower validation loss than "
        f"its {usable[best]:.4f}"
    )
