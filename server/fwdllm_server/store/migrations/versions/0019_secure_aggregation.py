"""Secure aggregation of a round's scalars"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "aggregations",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("round", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("session", sa.LargeBinary(), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("step_since", sa.Float(), nullable=False),
        sa.Column("sum", sa.LargeBinary(), nullable=True),
        sa.Column("weight", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "round"),
    )
    op.create_table(
        "aggregation_members",
        sa.Column("assignment_id", sa.String(length=96), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("keys", sa.LargeBinary(), nullable=True),
        sa.Column("shares", sa.LargeBinary(), nullable=True),
        sa.Column("masked", sa.LargeBinary(), nullable=True),
        sa.Column("unmasking", sa.LargeBinary(), nullable=True),
        sa.Column("inbox", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("assignment_id"),
    )
    op.create_index("aggregation_members_by_round", "aggregation_members", ["job_id", "round"])


def downgrade() -> None:
    op.drop_index("aggregation_members_by_round", table_name="aggregation_members")
    op.drop_table("aggregation_members")
    op.drop_table("aggregations")
