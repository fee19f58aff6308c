"""Self-tests of devices"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("efforts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("signal_to_noise", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("self_tested_at", sa.Float(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("efforts", schema=None) as batch_op:
        batch_op.drop_column("self_tested_at")
        batch_op.drop_column("signal_to_noise")
