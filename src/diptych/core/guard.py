"""What a guard lets through: which categories of moderation are held against which limits."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Category = Literal[
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic"]
"""OpenAI's names."""
CATEGORIES: tuple[str, ...] = get_args(Category)
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Guard(BaseModel):
    """Blocks texts whose score in a category is `threshold` or more, or what `thresholds` says for it. `categories`
    are looked at, all when left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field("starter-text", min_length=1, max_length=300, description="id of the text model that judges")
    threshold: Share = 0.5
    thresholds: dict[Category, Share] = Field(default_factory=dict, description="of single categories")
    categories: tuple[Category, ...] | None = Field(None, min_length=1, description="those that count; all: left out")
    input: bool = Field(True, description="judge what the user and tools say, before the model reads it")
    output: bool = Field(True, description="judge the answer, before anybody reads it")

    @model_validator(mode="after")
    def _known(self) -> Guard:
        odd = next((name for name in self.thresholds if self.categories is not None and name not in self.categories),
                   None)
        if odd is not None:
            raise ValueError(f"thresholds has {odd}, which categories leaves out")
        if not self.input and not self.output:
            raise ValueError("input and output are both false: that guards nothing")
        return self

    def limits(self) -> dict[str, float]:
        """The least score of each category that is blocked."""
        return {name: self.thresholds.get(name, self.threshold)  # type: ignore[call-overload]
                for name in self.categories or CATEGORIES}

    def blocked(self, scores: dict[str, float]) -> dict[str, float]:
        """Those of `scores` (by category) that are over their limits."""
        return {name: scores[name] for name, limit in self.limits().items() if scores[name] >= limit}
