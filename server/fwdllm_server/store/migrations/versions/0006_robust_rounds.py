"""Several devices for a direction, and how large scalars are"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COLUMNS = "job_id, round, seed, assignment_id, device_id, value"


def upgrade() -> None:
    _rebuild_scalars(("job_id", "round", "seed", "copy"), f"({_COLUMNS}, copy) SELECT {_COLUMNS}, 0")
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.add_column(sa.Column("scales", sa.Text(), nullable=False, server_default="{}"))


def downgrade() -> None:
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.drop_column("scales")
    _rebuild_scalars(("job_id", "round", "seed"), f"({_COLUMNS}) SELECT {_COLUMNS}", "WHERE copy = 0")


def _rebuild_scalars(key: tuple[str, ...], copy: str, where: str = "") -> None:
    op.rename_table("scalars", "scalars_before")
    numbers = {"round": sa.BigInteger(), "seed": sa.BigInteger(), "copy": sa.Integer()}
    op.create_table(
        "scalars",
        *(sa.Column(name, numbers.get(name, sa.String(length=64)), nullable=False) for name in key),
        sa.Column("assignment_id", sa.String(length=96), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*key, name=f"scalars_by_{key[-1]}"),
    )
    op.execute(f"INSERT INTO scalars {copy} FROM scalars_before {where}")
    op.drop_table("scalars_before")
