"""What an evaluation found on the rows that choose the version to export"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("validation_accuracy", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("validation_loss", sa.Float(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.drop_column("validation_loss")
        batch_op.drop_column("validation_accuracy")
