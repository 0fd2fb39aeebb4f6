"""Control tokens that are read in the text of an answer."""

from __future__ import annotations

MARKS = (
    "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[TOOL_CONTENT]", "[THINK]", "[/THINK]", "<tool_call>", "</tool_call>",
    "<think>", "</think>", "<|python_tag|>", "<|tool_call|>", "<|channel|>", "<|message|>", "<|start|>", "<|call|>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
)
"""Control tokens that are part of an answer; all others are left out of its text."""
