"""Alembic's scripts, run by `store.database.migrate`."""
