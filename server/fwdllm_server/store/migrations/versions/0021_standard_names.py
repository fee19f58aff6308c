"""Standard names: a job's devices, known-answer tests, θ without its head"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


# SQLite and PostgreSQL rename columns in place; a batch would copy the tables that others refer to.
_COLUMNS = (("job_devices", "self_tested_at", "tested_at"), ("jobs", "draft_sha256", "headless_sha256"))


def upgrade() -> None:
    op.rename_table("efforts", "job_devices")
    for table, old, new in _COLUMNS:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")


def downgrade() -> None:
    for table, old, new in _COLUMNS:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {new} TO {old}")
    op.rename_table("job_devices", "efforts")
