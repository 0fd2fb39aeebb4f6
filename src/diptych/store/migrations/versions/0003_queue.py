"""Who runs a job, the gateways, and counters of what waits."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

QUEUED = sa.text("state = 'queued'")
BEGUN = sa.text("state != 'queued'")
RUNNING = sa.text("state = 'running'")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("owner", sa.String(32)))
    op.add_column("jobs", sa.Column("shape", sa.String(100), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("pictures", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("steps", sa.Integer(), nullable=False, server_default="0"))
    _measure_what_waits()
    op.drop_index("ix_jobs_state_priority_caller_seq", "jobs")
    op.create_index("ix_jobs_line", "jobs", ["priority", "caller", "model", "seq"], sqlite_where=QUEUED,
                    postgresql_where=QUEUED)
    op.create_index("ix_jobs_running", "jobs", ["owner"], sqlite_where=RUNNING, postgresql_where=RUNNING)
    op.create_index("ix_jobs_begun", "jobs", ["state", "seq"], sqlite_where=BEGUN, postgresql_where=BEGUN)
    op.create_table(
        "queue_lines",
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("caller", sa.String(200), nullable=False),
        sa.Column("model", sa.String(300), nullable=False),
        sa.Column("shape", sa.String(100), nullable=False),
        sa.Column("queued", sa.BigInteger(), nullable=False),
        sa.Column("pictures", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("priority", "caller", "model", "shape", name="pk_queue_lines"),
    )
    op.create_table(
        "gateways",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(300), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("leaving", sa.Boolean(), nullable=False),
        sa.Column("started_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gateways"),
    )
    # The counters are filled by the gateway that starts next (`JobStore.recount`).


def _measure_what_waits() -> None:
    jobs = sa.table("jobs", *(sa.column(name) for name in ("seq", "state", "spec", "shape", "pictures", "steps")))
    connection = op.get_bind()
    rows = connection.execute(sa.select(jobs.c.seq, jobs.c.spec).where(jobs.c.state.in_(("queued", "running")))).all()
    for seq, text in rows:
        spec = json.loads(text)
        count = spec.get("count", 1)
        connection.execute(jobs.update().where(jobs.c.seq == seq).values(
            shape=f"{spec.get('width')}x{spec.get('height')}", pictures=count, steps=spec.get("steps", 0) * count))


def downgrade() -> None:
    for table in ("gateways", "queue_lines"):
        op.drop_table(table)
    for index in ("ix_jobs_line", "ix_jobs_running", "ix_jobs_begun"):
        op.drop_index(index, "jobs")
    op.create_index("ix_jobs_state_priority_caller_seq", "jobs", ["state", "priority", "caller", "seq"])
    for column in ("owner", "shape", "pictures", "steps"):
        op.drop_column("jobs", column)
