"""Values, schema, documentation and the server's settings are one; and the schema refuses what no template knows."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyad.serve.config import Settings
from tests.helm.chart import CHART, NEEDED, environment, merged, render, server, template


def test_generated_files_are_up_to_date() -> None:
    from generate import generated

    stale = [str(path) for path, text in generated().items() if path.read_text() != text]
    assert not stale, "run `make chart-files`"


def test_every_setting_is_a_value_or_the_charts_own() -> None:
    from server_settings import OWNED

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values["settings"]) | (OWNED.keys() & Settings.model_fields.keys()) == Settings.model_fields.keys()
    assert not set(values["settings"]) & OWNED.keys()
    for name, default in values["settings"].items():
        ours = Settings.model_fields[name].default
        assert default == (list(ours) if isinstance(ours, tuple) else ours), name


def test_what_the_pod_is_given_makes_the_servers_own_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(server(render())["containers"][0]).items():
        if name.startswith("POLYAD_"):
            monkeypatch.setenv(name, value if isinstance(value, str) else f"from-{name.lower()}")
    seen, ours = Settings.load(), Settings.model_fields
    differs = {name for name, field in ours.items() if getattr(seen, name) != field.default}
    assert differs == {"host", "api_key", "admin_key", "metrics_key", "redis_url", "state_dir", "blobs"}
    assert str(seen.state_dir) == "/var/lib/polyad"


CHANGED: dict[str, tuple[Any, str]] = {
    "host_cache_bytes": (2**41 + 1, "2199023255553"),
    "slot_wait_s": (0.25, "0.25"),
    "allow_hub": (True, "true"),
    "allow_source": (["s3://a/", "gs://b/"], "s3://a/,gs://b/"),
    "adapter_root": ("/adapters", "/adapters"),
    "kernels": ("triton", "triton"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_settings_reach_the_server_as_they_are(name: str) -> None:
    value, text = CHANGED[name]
    given = environment(server(render({"settings": {name: value}}))["containers"][0])
    assert given[f"POLYAD_{name.upper()}"] == text


def everything_strict(schema: dict[str, Any]) -> list[str]:
    parts = {"": schema, **schema["$defs"]}
    return [
        name for name, part in parts.items() if "properties" in part and part.get("additionalProperties") is not False
    ]


def test_schema_is_strict_at_every_level_and_describes_all() -> None:
    import json

    schema = json.loads((CHART / "values.schema.json").read_text())
    assert everything_strict(schema) == []
    documented = {
        name: part["properties"] for name, part in {"": schema, **schema["$defs"]}.items() if "properties" in part
    }
    bare = [
        f"{part}.{name}"
        for part, names in documented.items()
        for name, rule in names.items()
        if not rule.get("description") and part != "Toleration"
    ]
    assert bare == []


REFUSED = [
    ({"replicas": 3}, "replicas"),
    ({"server": {"replica": 3}}, "replica"),
    ({"server": {"replicas": -1}}, "replicas"),
    ({"server": {"kind": "DaemonSet"}}, "kind"),
    ({"profile": "tpu"}, "profile"),
    ({"gpu": {"kind": "rtx"}}, "kind"),
    ({"gpu": {"count": 0}}, "count"),
    ({"settings": {"slots": 0}}, "slots"),
    ({"settings": {"slots": "eight"}}, "slots"),
    ({"settings": {"kernels": "gpu"}}, "kernels"),
    ({"settings": {"slot": 3}}, "slot"),
    ({"settings": {"api_key": "hush"}}, "api_key"),
    ({"settings": {"redis_url": "redis://"}}, "redis_url"),
    ({"image": {"digest": "latest"}}, "digest"),
    ({"keys": {"existingSecret": "No_Name"}}, "existingSecret"),
    ({"blobs": {"objectStore": {"url": "bucket"}}}, "url"),
    ({"autoscaling": {"kind": "vpa"}}, "kind"),
    ({"server": {"tolerations": [{"effect": "Never"}]}}, "effect"),
    ({"service": {"httpPort": 70000}}, "httpPort"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "named"), REFUSED, ids=[str(values) for values, _ in REFUSED])
def test_schema_refuses_and_names(values: dict[str, Any], named: str) -> None:
    code, text = template(merged(NEEDED, values))
    assert code != 0
    assert "values don't meet the specifications of the schema" in text
    assert named in text


MISSING = [
    ({"model": {"name": ""}}, "model.name is required"),
    ({"keys": {"existingSecret": ""}}, "keys.existingSecret is required"),
    ({"redis": {"url": {"name": ""}}}, "redis.url.name is required"),
    ({"blobs": {"kind": "objectStore"}}, "blobs.objectStore.url is required"),
    ({"gateway": {"enabled": True}}, "gateway.parents is required"),
    ({"inferencePool": {"enabled": True}}, "inferencePool.picker.name is required"),
    ({"autoscaling": {"kind": "keda"}}, "autoscaling.keda.prometheus is required"),
    ({"autoscaling": {"minReplicas": 9, "maxReplicas": 3}}, "autoscaling.minReplicas is above maxReplicas"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "said"), MISSING, ids=[said for _, said in MISSING])
def test_what_is_missing_is_named(values: dict[str, Any], said: str) -> None:
    code, text = template(merged(NEEDED, values))
    assert code != 0
    assert said in text


def test_templates_use_only_values_that_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    used = set()
    for file in Path(CHART / "templates").iterdir():
        used |= set(re.findall(r"\.Values\.([A-Za-z_.]+)", file.read_text()))
    for path in used:
        part: Any = values
        for name in path.rstrip(".").split("."):
            assert isinstance(part, dict), path
            assert name in part, path
            part = part[name]
