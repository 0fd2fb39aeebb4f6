"""Settings of one Diptych process: a file, the environment (`DIPTYCH_…`) and flags, in rising order of precedence.

Passed to whoever needs them, never imported as state.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from diptych.core.finish import NsfwAction
from diptych.core.guard import Guard
from diptych.core.routes import Route, RouteName
from diptych.core.tools import SERVER, HttpTool, McpServer


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/diptych`, by default `~/.local/share/diptych`."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "diptych"


def default_config_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "diptych" / "config.toml"


class Upstream(BaseModel):
    """A server that is not ours and speaks OpenAI's API: one at `url` (ending in /v1), or `vllm serve` of a model,
    which is started when it is first used. Its models are named `<name of the upstream>/<model>` here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(None, pattern=r"^https?://", description="e.g. https://api.example.org/v1")
    vllm: str | None = Field(None, min_length=1, description="folder of a model that vLLM is started with")
    vllm_args: tuple[str, ...] = Field((), description="more arguments for vllm serve")
    api_key_env: str | None = Field(None, min_length=1, description="environment variable that holds its API key")
    models: tuple[str, ...] = Field(min_length=1, description="its models, as it names them")
    vision: bool = Field(False, description="whether its models take pictures")
    context: int | None = Field(None, ge=1, description="context of its models in tokens")
    tasks: tuple[Literal["chat", "embed"], ...] = Field(("chat",), description="what its models are for")
    fields: tuple[str, ...] = Field((), description=(
        "sampling fields beyond OpenAI's that it knows: top_k, min_p, repeat_penalty, chat_template_kwargs …"))
    connect_seconds: float = Field(10.0, gt=0, description="how long a connection may take")
    first_token_seconds: float = Field(120.0, gt=0, description="how long it may be silent")

    @model_validator(mode="after")
    def _one_way(self) -> Upstream:
        if (self.url is None) == (self.vllm is None):
            raise ValueError("give either url or vllm")
        if self.vllm is not None and len(self.models) != 1:
            raise ValueError("vllm serves one model: name one")
        return self


class Settings(BaseSettings):
    """Everything an operator can set. Sizes in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="DIPTYCH_", frozen=True, extra="forbid")

    data_dir: Path = Field(default_factory=default_data_dir, description="jobs, pictures, models and logs live here")
    model_dirs: tuple[Path, ...] = Field((), description="more folders with models, used in place")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(7860, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    database_url: str | None = Field(None, description="SQLAlchemy URL; SQLite in the data folder when left out")
    pictures_dir: Path | None = Field(
        None, description="finished pictures; several servers of one PostgreSQL database need one folder that all see")
    gateway_lease_seconds: float = Field(
        15.0, ge=0.5, description="a server of a shared database that shows no life for so long is taken for dead")
    caller_weights: dict[str, float] = Field(
        {}, description="turns that a caller gets for each turn of another; 1 for those not named")
    threads: int = Field(0, ge=0, description="compute threads of all runners together; 0: all cores")
    text_threads: int = Field(
        0, ge=0, description="of those, what a language model writes with; 0: half, the rest being for pictures")
    memory_bytes: int = Field(
        0, ge=0, description="memory that models may use; 0: 80 % of the machine's, or of the container's")
    devices: tuple[str, ...] = Field(
        ("cpu",), min_length=1, description="where image models may run, best first: cuda:0, rocm:0, xpu:0, mps, cpu")
    plan_trace: Path | None = Field(None, description="a file that every memory plan is appended to, as JSON lines")
    warm_spare: bool = Field(True, description="keep a runner with its libraries imported and no model")
    runner_start_seconds: float = Field(120.0, gt=0, description=(
        "how long a runner may take to load its model, and a second more for every 20 MB of its file"))
    runner_idle_seconds: float = Field(900.0, ge=0, description="idle runners end after this time; 0: never")
    runner_hang_seconds: float = Field(
        60.0, ge=1, description="a runner that neither answers nor computes for so long is ended")
    job_timeout_seconds: float = Field(3600.0, gt=0)
    job_max_attempts: int = Field(3, ge=1, le=100)
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="largest request body")
    max_picture_body_bytes: int = Field(
        96 * 1024 * 1024, ge=1024, description="largest body of a request that may hold pictures to work on")
    max_queued_jobs: int = Field(100_000, ge=1)
    image_batch: int = Field(16, ge=1, le=256, description="most pictures denoised together")
    text_slots: int = Field(4, ge=1, le=64, description="chat requests answered at once by one text runner")
    text_context: int = Field(0, ge=0, description="context in tokens per chat request; 0: the model's, at most 8192")
    text_cache_type: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"] = Field(
        "f16", description="type of the KV cache of text models; q8_0 takes half of f16's memory")
    text_flash_attention: Literal["auto", "on", "off"] = Field("auto", description="flash attention of text models")
    nsfw: NsfwAction = Field("off", description=(
        "what happens to every picture in which nudity is found, at least: off, it is not looked for; blur; refuse"))
    guard: Guard | None = Field(None, description=(
        "judges what users say and what models answer, for every request in text: {model, threshold, thresholds, "
        "categories, input, output}"))
    upstreams: dict[str, Upstream] = Field({}, description="servers whose models are offered here, by name")
    routes: dict[RouteName, Route] = Field({}, description=(
        "names that stand for several models: {targets, strategy, fallback_on, cooldown_after, cooldown_seconds}"))
    tools: tuple[str, ...] = Field((), description="Python functions that agents may call, as package.module:function")
    http_tools: tuple[HttpTool, ...] = Field((), description="web services that agents may call")
    mcp_servers: dict[Annotated[str, Field(pattern=SERVER)], McpServer] = Field(
        {}, description="servers of the Model Context Protocol whose tools agents may call")
    tool_seconds: float = Field(60.0, gt=0, description="how long a Python function may take that an agent calls")
    require_key: bool | None = Field(None, description=(
        "whether requests need an API key; left out: as soon as one was ever made, and always where others can reach "
        "the server"))
    allowed_hosts: tuple[str, ...] = Field((), description="names that the server is reached by; *.example.org too")
    cors_origins: tuple[str, ...] = Field((), description="origins whose web pages may use the server")
    fetch_hosts: tuple[str, ...] = Field((), description=(
        "hosts that a URL in a request may name: names, *.example.org, * for all public ones; networks (10.1.0.0/16) "
        "for private addresses"))
    max_document_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="largest body of files that are added to a collection")
    max_fetch_bytes: int = Field(32 * 1024 * 1024, ge=1, description="largest answer to a fetched URL")
    fetch_seconds: float = Field(20.0, gt=0, description="how long fetching a URL may take in all")
    max_image_bytes: int = Field(32 * 1024 * 1024, ge=1024, description="largest file of a picture that is sent")
    max_image_pixels: int = Field(
        32 * 1024 * 1024, ge=1, description="most pixels of a picture that is sent, checked before it is unpacked")
    log_level: str = "info"
    log_format: Literal["text", "json"] = Field("text", description="of standard error; files hold JSON lines")
    shutdown_grace_seconds: float = Field(
        5.0, ge=0, le=86400, description="how long running jobs and answers may go on when the server is told to end")
    min_free_bytes: int = Field(
        256 * 1024 * 1024, ge=0, description="with less room on the disk, /ready says that the server is not")

    @property
    def artifacts_dir(self) -> Path:
        return self.pictures_dir or self.data_dir / "artifacts"

    @property
    def inputs_dir(self) -> Path:
        return self.data_dir / "inputs"

    @property
    def models_dir(self) -> Path:
        return self.data_dir / "models"

    @property
    def logs_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'diptych.sqlite3'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = TomlConfigSettingsSource(settings_cls, os.environ.get("DIPTYCH_CONFIG", default_config_file()))
        return init_settings, env_settings, file
