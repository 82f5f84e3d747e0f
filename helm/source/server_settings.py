"""The server's settings as Helm values (`settings.slots` for POLYAD_SLOTS), as serve/config.py declares them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from polyad.serve.config import Settings

# What the chart sets itself, and the value to use instead.
OWNED = {
    "host": "nothing: all addresses of the pod",
    "port": "`service.httpPort`; the container listens on 8000",
    "grpc_port": "`service.grpc`; the container listens on 9000",
    "api_key": "`keys`",
    "admin_key": "`keys`",
    "metrics_key": "`keys`",
    "redis_url": "`redis`",
    "redis_server": "`redis`",
    "state_dir": "`server.state`; /var/lib/polyad in the container",
    "blobs": "`blobs`",
}


def shared_settings() -> dict[str, FieldInfo]:
    """The settings that are values, by name."""
    return {name: field for name, field in Settings.model_fields.items() if name not in OWNED}


def _value(field: FieldInfo) -> tuple[Any, Any]:
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    annotation = list[str] if isinstance(default, list) else str | None if default is None else field.annotation
    bounds = {
        name: getattr(rule, name)
        for rule in field.metadata
        for name in ("ge", "gt", "le", "lt", "pattern")
        if getattr(rule, name, None) is not None
    }
    return annotation, Field(default, description=field.description, **bounds)


def settings_model() -> type[BaseModel]:
    """The model of `settings`."""
    fields: Any = {name: _value(field) for name, field in shared_settings().items()}
    return create_model("ServerSettings", __config__=ConfigDict(extra="forbid"), **fields)
