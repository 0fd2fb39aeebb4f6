"""Adapters of image models (LoRA and its relatives, embeddings): read, bound to a model, applied row by row."""
