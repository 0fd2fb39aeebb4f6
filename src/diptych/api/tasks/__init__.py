"""Tasks that are no conversation: vectors, relevance, classes, moderation, translation, collections of documents."""
