"""What devices say that they cannot do"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("efforts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("failed_until", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("failure", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("failure_message", sa.String(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("efforts", schema=None) as batch_op:
        batch_op.drop_column("failure_message")
        batch_op.drop_column("failure")
        batch_op.drop_column("failed_until")
