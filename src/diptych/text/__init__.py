"""Features of chat that need no engine: tools, guaranteed output, reasoning, repetition, routing."""
