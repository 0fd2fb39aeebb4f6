"""Answers from given texts: what is put before the model, and citations that are checked against it."""
