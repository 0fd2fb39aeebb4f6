"""Tasks that are no conversation: vectors, relevance, classes, moderation, translation, collections of documents."""

from __future__ import annotations

from pydantic import BaseModel

from diptych.api.tasks import embeddings, fim, rerank

TASK_ROUTERS = (embeddings.router, rerank.router, fim.router)
TASK_BODIES: tuple[type[BaseModel], ...] = (embeddings.EmbeddingsRequest, rerank.RerankRequest, fim.FimRequest)
