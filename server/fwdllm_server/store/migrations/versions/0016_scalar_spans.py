"""Packed scalars of orthogonal directions"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "scalar_spans",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.Column("first_seed", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("assignment_id", sa.String(length=96), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("halves", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "round", "first_seed"),
    )
    op.create_index("scalar_spans_by_assignment", "scalar_spans", ["assignment_id"])


def downgrade() -> None:
    op.drop_index("scalar_spans_by_assignment", table_name="scalar_spans")
    op.drop_table("scalar_spans")
