"""When an operator resumed a job, and the version at which it got more rounds"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("resumed_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("extended_from", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("extended_from")
        batch_op.drop_column("resumed_at")
