"""Jobs, artifacts, measurements."""

from diptych.store.tables import metadata

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    metadata.create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    metadata.drop_all(op.get_bind())
