"""Pause, priority and turns of jobs; how often devices have worked"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("paused", sa.Boolean(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("selected_at", sa.Float(), nullable=True))
    op.create_table(
        "participation",
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("assignments", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"]),
        sa.PrimaryKeyConstraint("device_id", "day"),
    )


def downgrade() -> None:
    op.drop_table("participation")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("selected_at")
        batch_op.drop_column("priority")
        batch_op.drop_column("paused")
