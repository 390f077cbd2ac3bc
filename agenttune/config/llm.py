"""Language models: which, where, at what price, and those that review what others propose."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agenttune.config.setting import Positive, Settings


class Price(Settings):
    """What a model costs, in US dollars per million tokens."""

    input_usd: float = Field(ge=0)
    """Input."""
    output_usd: float = Field(ge=0)
    """Output."""
    cached_input_usd: float | None = Field(None, ge=0)
    """Input that the provider had in its cache; null: as other input."""


class LlmSettings(Settings):
    """The language model that policies may use, behind any endpoint that speaks OpenAI's Chat Completions."""

    model: str | None = None
    """Its name at the endpoint; without one, policies go by their rules alone."""
    base_url: str | None = None
    """The endpoint, such as http://127.0.0.1:8080/v1; without one, OPENAI_BASE_URL or OpenAI itself."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    protocol: Literal["auto", "tools", "json"] = "auto"
    """How it answers: with tool calls, or with JSON after a schema; auto finds out with a small call at the start."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Sampling temperature; null: the endpoint's own."""
    max_output_tokens: int = Field(2000, ge=16)
    """Longest answer, in tokens."""
    timeout_s: Positive = 120.0
    """How long one attempt may take, in seconds."""
    max_attempts: int = Field(4, ge=1)
    """Attempts of one call, on errors that may pass."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """Prices by model name."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request, such as a provider's own options."""


class ReviewerSettings(Settings):
    """A model that reviews what another proposes; what is not given is as in `llm` of the config file."""

    model: str | None = None
    """Its name at the endpoint; better another model than the one that proposes."""
    base_url: str | None = None
    """Its endpoint."""
    api_key_env: str | None = None
    """Name of the environment variable that holds its key."""
    temperature: float | None = Field(0.0, ge=0, le=2)
    """Sampling temperature; null: the endpoint's own."""
    prompt: str = "review"
    """A template's name or path."""

    def llm(self, llm: LlmSettings) -> LlmSettings:
        """The settings of the model."""
        given = {name: value for name in ("model", "base_url", "api_key_env") if (value := getattr(self, name))}
        return llm.model_copy(update=given)


class GateReviewerSettings(ReviewerSettings):
    """The model that the approver `model` of a rule asks."""

    prompt: str = "approve"
    """A template's name or path."""
