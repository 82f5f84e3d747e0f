"""Makes values.yaml, values.schema.json, the README's table, alerts and dashboard: `python helm/source/generate.py`."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from polyad.serve.config import Settings

sys.path.insert(0, str(Path(__file__).parent))

from alerts import rules
from dashboard import dashboard
from server_settings import OWNED
from values import Chart

HELM = Path(__file__).resolve().parent.parent


def values_yaml() -> str:
    """The defaults, each under its description."""
    head = "# Generated from source/values.py by source/generate.py; README.md has the same as a table.\n"
    return head + "\n".join(_lines(Chart(), 0)) + "\n"


def _lines(part: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if depth == 0:
            yield ""
        yield f"{indent}# {_flat(field.description)}"
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _lines(value, depth + 1)
        else:
            yield f"{indent}{name}: {json.dumps(_plain(value), ensure_ascii=False)}"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        # An object in a list: only what differs from its defaults, as a person would write it.
        return value.model_dump(exclude_defaults=True)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _flat(text: str | None) -> str:
    return " ".join((text or "").split())


def schema_json() -> str:
    """The JSON schema of the values, strict at every level."""
    schema = _bare(Chart.model_json_schema())
    # What Helm itself adds for charts that use this one as a part.
    schema["properties"]["global"] = {"type": "object", "description": "Set by Helm."}
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _bare(node: Any) -> Any:
    """Without titles and defaults: the former say nothing, the latter are in values.yaml."""
    if isinstance(node, list):
        return [_bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    names = node.get("properties", {}) if isinstance(node.get("properties"), dict) else {}
    kept = {key: _bare(value) for key, value in node.items() if key not in ("title", "default", "properties")}
    if names:
        kept["properties"] = {name: _bare(value) for name, value in names.items()}
    if isinstance(kept.get("description"), str):
        kept["description"] = _flat(kept["description"])
    return kept


def readme_table() -> str:
    """Every value with default and description, and the settings that are no values."""
    rows = ["| value | default | |", "| --- | --- | --- |", *_rows(Chart(), "")]
    owned = ["", "Settings that the chart sets itself:", "", "| setting | set by |", "| --- | --- |"]
    return "\n".join(
        [*rows, *owned, *(f"| `{name}` | {OWNED[name]} |" for name in OWNED if name in Settings.model_fields)]
    )


def _rows(part: BaseModel, prefix: str) -> Iterator[str]:
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            shown = json.dumps(_plain(value), ensure_ascii=False).replace("|", "\\|")
            yield f"| `{prefix}{name}` | `{shown}` | {_flat(field.description).replace('|', chr(92) + '|')} |"


def alerts_yaml() -> str:
    """The rules as promtool and the PrometheusRule read them."""
    return "# Generated from source/alerts.py.\n" + yaml.safe_dump(rules(), sort_keys=False, width=1000)


def readme(text: str) -> str:
    """The README with a fresh table."""
    table = f"<!-- values: begin -->\n{readme_table()}\n<!-- values: end -->"
    return re.sub(r"<!-- values: begin -->.*<!-- values: end -->", lambda _: table, text, flags=re.DOTALL)


def generated() -> dict[Path, str]:
    """Every generated file and what it has to hold."""
    return {
        HELM / "values.yaml": values_yaml(),
        HELM / "values.schema.json": schema_json(),
        HELM / "README.md": readme((HELM / "README.md").read_text()),
        HELM / "files/alerts.yaml": alerts_yaml(),
        HELM / "files/dashboard.json": json.dumps(dashboard(), indent=1) + "\n",
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
        print(f"{path.relative_to(HELM)}: {len(text.splitlines())} lines")
