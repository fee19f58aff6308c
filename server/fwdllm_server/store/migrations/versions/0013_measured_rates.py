"""What the coordinator itself sees of devices: rates, failures and fetches; totals within their bounds"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_MOST = 1 << 53
"""As :data:`fwdllm_server.store.efforts.MOST` was when this was written."""
_BOUNDED = (
    *("scalars", "seconds", "example_passes", "recent_seconds", "recent_passes", "peak_rss_bytes", "joules"),
    *("bytes_sent", "bytes_received", "artifact_bytes"),
    *("last_bytes_sent", "last_bytes_received", "last_artifact_bytes"),
)


def upgrade() -> None:
    with op.batch_alter_table("assignments", schema=None) as batch_op:
        batch_op.add_column(sa.Column("taken_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("passes", sa.Float(), nullable=False, server_default="0"))
    with op.batch_alter_table("efforts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("observed_seconds", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("observed_passes", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("failed_at", sa.Float(), nullable=True))
    for column in _BOUNDED:
        op.execute(f"UPDATE efforts SET {column} = {_MOST} WHERE {column} > {_MOST}")  # noqa: S608 - names of ours
    # Rounds that are open when the tables change have been fetched by whoever is at work on them.
    op.execute("UPDATE assignments SET taken_at = 0 WHERE state <> 'offered'")


def downgrade() -> None:
    with op.batch_alter_table("efforts", schema=None) as batch_op:
        for column in ("failed_at", "failures", "observed_passes", "observed_seconds"):
            batch_op.drop_column(column)
    with op.batch_alter_table("assignments", schema=None) as batch_op:
        batch_op.drop_column("passes")
        batch_op.drop_column("taken_at")
