"""Durable records: jobs, artifacts, measurements."""
