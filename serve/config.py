"""Every setting of the server, declared once: flags, environment variables and Helm values carry these names."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from polyad.adapters_store.errors import ConfigError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
GIB = 1024**3
MIB = 1024**2


class Settings(BaseSettings):
    """Settings of `polyad serve`. A flag (--state-dir) wins over the environment (POLYAD_STATE_DIR)."""

    model_config = SettingsConfigDict(env_prefix="POLYAD_", frozen=True, extra="forbid", validate_default=True)

    host: str = Field("127.0.0.1", description="Address to listen on. Other than loopback only with keys.")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; 0 takes a free one.")
    grpc_port: int = Field(8001, ge=0, le=65535, description="gRPC port, on the same address; 0 takes a free one.")
    # An empty key would be everybody's: whoever sends none sends that.
    api_key: SecretStr | None = Field(
        None, min_length=1, description="Key that clients must send; a user's of the tenant public."
    )
    admin_key: SecretStr | None = Field(
        None, min_length=1, description="Key that may change all; an admin's of the tenant public."
    )
    metrics_key: SecretStr | None = Field(
        None, min_length=1, description="Key that may read /metrics, and nothing else."
    )

    state_dir: Path = Field(
        Path(".state"), description="Folder for the embedded Redis, blobs and caches. One server per folder."
    )
    redis_url: SecretStr | None = Field(
        None,
        description="redis://, rediss://, redis+sentinel:// or redis+cluster:// URL of the registry. "
        "Default: an embedded Redis in state_dir.",
    )
    redis_server: Path | None = Field(None, description="redis-server binary for the embedded Redis. Default: found.")
    registry_namespace: str = Field(
        "polyad", pattern=r"^[a-z0-9-]{1,40}$", description="Prefix of all Redis keys: one registry per namespace."
    )
    blobs: str | None = Field(
        None, description="Folder or fsspec URL (s3://bucket/prefix) for adapter bytes. Default: blobs in state_dir."
    )
    blob_cache_bytes: int = Field(
        20 * GIB, ge=0, description="Size bound of the local cache in front of a remote blob store."
    )
    collect_after_s: float = Field(
        600, ge=0, description="Age from which bytes that no version refers to may be collected, in seconds."
    )

    max_adapter_bytes: int = Field(512 * MIB, ge=1, description="Largest adapter that may be pushed.")
    allow_hub: bool = Field(False, description="Allow pushes from hf://org/repo@revision.")
    allow_source: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="URL prefixes (s3://bucket/folder/) that pushes may name; comma-separated."
    )
    source_timeout_s: float = Field(600, gt=0, description="Bound on fetching a pushed source, in seconds.")
    adapter_root: Path | None = Field(
        None, description="Folder under which /v1/load_lora_adapter may read. Default: that route is refused."
    )

    slots: int = Field(8, ge=1, le=1024, description="Adapter versions that one batch may mix (device memory).")
    max_rank: int = Field(64, ge=1, le=4096, description="Largest rank of an adapter.")
    slot_wait_s: float = Field(
        2.0, ge=0, description="How long a request may wait for a slot before one is freed for it, in seconds."
    )
    host_cache_bytes: int = Field(4 * GIB, ge=1, description="Host memory for adapter versions, in bytes.")
    warm_versions: int = Field(
        32,
        ge=0,
        description="Versions that a new server takes over from others before it is ready, beside all pinned ones.",
    )
    load_timeout_s: float = Field(60, gt=0, description="Bound on bringing one version into host memory, in seconds.")

    merge_wait_s: float = Field(
        30, ge=0, description="How long a request waits for a merge that it is the first to name, in seconds."
    )
    merge_threads: int = Field(1, ge=1, le=64, description="Threads that compute a merge, at low priority.")
    merge_cache_bytes: int = Field(
        8 * GIB,
        ge=0,
        description="Size bound of the results of merges older than a minute; the least recently used go first.",
    )
    merge_retry_s: float = Field(60, gt=0, description="How long a merge that failed is not tried again, in seconds.")

    kernels: Literal["auto", "triton", "cpu", "reference"] = Field(
        "auto",
        description="What computes the adapters' part: triton on a GPU, cpu (native code), or reference (torch).",
    )

    log_format: Literal["text", "json"] = Field(
        "text", description="How the server logs: for people, or one JSON object a line."
    )
    metric_labels: int = Field(
        100, ge=0, le=10_000, description="Adapters that metrics name, the busiest; the rest are together `other`."
    )

    learn_threads: int = Field(1, ge=1, le=1024, description="Threads that `polyad learn` computes with on a CPU.")
    learn_lease_s: float = Field(
        30, ge=1, description="How long a worker that went silent keeps an adapter from others, in seconds."
    )
    learn_poll_s: float = Field(1.0, gt=0, description="How often a worker looks for work, in seconds.")
    learn_suites: Path | None = Field(
        None, description="Folder with the regression suites (name.jsonl) that policies may name."
    )

    restart_backoff_s: float = Field(
        30, gt=0, description="Longest pause between two attempts to restart a dead engine, in seconds."
    )
    drain_s: float = Field(30, ge=0, description="How long running requests may finish at shutdown, in seconds.")

    @field_validator("allow_source", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def blobs_root(self) -> str:
        return self.blobs if self.blobs is not None else str(self.state_dir.absolute() / "blobs")

    @classmethod
    def load(cls, **flags: Any) -> "Settings":
        """Settings from the flags given (None = not given) over the environment. Raises ConfigError."""
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(problem) for problem in error.errors())) from error

    def table(self) -> list[tuple[str, str, str]]:
        """(name, value, explanation) of each setting; secrets are masked."""
        return [
            (name, str(getattr(self, name)), field.description or "") for name, field in type(self).model_fields.items()
        ]


def _explain(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"]))
    reason = problem["msg"].removeprefix("Value error, ")
    return f"{place}: got {problem['input']!r}, {reason}" if place else reason
