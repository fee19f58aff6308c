"""Early stopping: a job whose validation loss falls no more has learnt what it will (Prechelt 1998)."""

from __future__ import annotations

from math import isfinite

from fwdllm_server.rounds.context import RoundContext
from fwdllm_server.store import jobs, ledger


def early_stop(context: RoundContext) -> str:
    """Return why a job with a ``patience`` ends before its last round; empty while it goes on.

    Only evaluated versions count: those that are behind with their evaluation end no job. A job that was extended has
    its whole patience from there on.
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
    since = max(best, jobs.required(context.connection, context.job.id).extended_from or 0)
    rounds = max(losses) - since
    if rounds < patience:
        return ""
    whose = "its" if since == best else f"version {best}'s"
    return (
        f"stopped early: none of the {rounds} rounds after version {since} has a lower validation loss than "
        f"{whose} {usable[best]:.4f}"
    )
