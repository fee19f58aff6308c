"""Recent speed of a device"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("efforts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("recent_seconds", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("recent_passes", sa.Float(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("efforts", schema=None) as batch_op:
        batch_op.drop_column("recent_passes")
        batch_op.drop_column("recent_seconds")
