"""The routes of all tasks, and their bodies."""

from __future__ import annotations

from pydantic import BaseModel

from diptych.api.tasks import (
    classifications,
    classifiers,
    collections,
    collections_ingest,
    embeddings,
    fim,
    moderations,
    rerank,
    translate,
)

TASK_ROUTERS = (embeddings.router, rerank.router, fim.router, classifications.router, classifiers.router,
                moderations.router, translate.router, collections.router)
TASK_BODIES: tuple[type[BaseModel], ...] = (
    embeddings.EmbeddingsRequest, rerank.RerankRequest, fim.FimRequest, classifications.ClassificationsRequest,
    classifications.ChatClassificationsRequest,
    classifiers.ClassifierRequest, moderations.ModerationsRequest, moderations.ChatModerationsRequest,
    translate.TranslateRequest, collections.CollectionRequest, collections.SearchRequest,
    collections_ingest.DocumentsRequest)
