"""How far each device's scalars go with the others'"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("efforts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("votes", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("vote_rounds", sa.Float(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("efforts", schema=None) as batch_op:
        batch_op.drop_column("vote_rounds")
        batch_op.drop_column("votes")
