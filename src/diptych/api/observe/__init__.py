"""Seeing the server run: metrics, access log, readiness, and its end in order."""
