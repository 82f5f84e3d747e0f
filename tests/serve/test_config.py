"""Every setting by its variable and by its flag, and what no setting may be."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from polyad.adapters_store.errors import ConfigError
from polyad.serve.cli.main import polyad
from polyad.serve.config import Settings

# text as it comes from outside, and the value that it must become
GIVEN: dict[str, tuple[str, object]] = {
    "host": ("::1", "::1"),
    "port": ("8123", 8123),
    "grpc_port": ("8124", 8124),
    "api_key": ("the-api-key", SecretStr("the-api-key")),
    "admin_key": ("the-admin-key", SecretStr("the-admin-key")),
    "metrics_key": ("the-metrics-key", SecretStr("the-metrics-key")),
    "state_dir": ("/var/lib/polyad", Path("/var/lib/polyad")),
    "redis_url": ("rediss://:pw@redis:6380/0", SecretStr("rediss://:pw@redis:6380/0")),
    "redis_server": ("/usr/bin/redis-server", Path("/usr/bin/redis-server")),
    "registry_namespace": ("team-a", "team-a"),
    "blobs": ("s3://bucket/blobs", "s3://bucket/blobs"),
    "blob_cache_bytes": ("1000", 1000),
    "collect_after_s": ("1.5", 1.5),
    "max_adapter_bytes": ("2000", 2000),
    "allow_hub": ("true", True),
    "allow_source": ("s3://a/, gs://b/ ,", ("s3://a/", "gs://b/")),
    "adapter_root": ("/adapters", Path("/adapters")),
    "source_timeout_s": ("9", 9.0),
    "slots": ("3", 3),
    "max_rank": ("16", 16),
    "kernels": ("reference", "reference"),
    "slot_wait_s": ("0", 0.0),
    "host_cache_bytes": ("4000", 4000),
    "warm_versions": ("5", 5),
    "load_timeout_s": ("0.5", 0.5),
    "merge_wait_s": ("0", 0.0),
    "merge_threads": ("2", 2),
    "merge_cache_bytes": ("5000", 5000),
    "merge_retry_s": ("5", 5.0),
    "log_format": ("json", "json"),
    "metric_labels": ("7", 7),
    "learn_threads": ("3", 3),
    "learn_lease_s": ("12.5", 12.5),
    "learn_poll_s": ("0.5", 0.5),
    "learn_suites": ("/srv/suites", Path("/srv/suites")),
    "restart_backoff_s": ("7", 7.0),
    "drain_s": ("0", 0.0),
}
SECRETS = ("api_key", "admin_key", "metrics_key", "redis_url")

BAD = [
    ("api_key", "", "at least 1"),
    ("admin_key", "", "at least 1"),
    ("metrics_key", "", "at least 1"),
    ("port", "65536", "less than or equal to 65535"),
    ("port", "-1", "greater than or equal to 0"),
    ("port", "http", "valid integer"),
    ("registry_namespace", "a:b", "pattern"),
    ("registry_namespace", "a" * 41, "pattern"),
    ("registry_namespace", "", "pattern"),
    ("blob_cache_bytes", "-1", "greater than or equal to 0"),
    ("collect_after_s", "-0.1", "greater than or equal to 0"),
    ("max_adapter_bytes", "0", "greater than or equal to 1"),
    ("allow_hub", "perhaps", "valid boolean"),
    ("slots", "0", "greater than or equal to 1"),
    ("slots", "1025", "less than or equal to 1024"),
    ("slots", "2.5", "valid integer"),
    ("max_rank", "0", "greater than or equal to 1"),
    ("max_rank", "5000", "less than or equal to 4096"),
    ("kernels", "gpu", "'auto', 'triton', 'cpu' or 'reference'"),
    ("grpc_port", "65536", "less than or equal to 65535"),
    ("log_format", "xml", "'text' or 'json'"),
    ("metric_labels", "-1", "greater than or equal to 0"),
    ("slot_wait_s", "-1", "greater than or equal to 0"),
    ("host_cache_bytes", "0", "greater than or equal to 1"),
    ("load_timeout_s", "0", "greater than 0"),
    ("merge_wait_s", "-1", "greater than or equal to 0"),
    ("merge_threads", "0", "greater than or equal to 1"),
    ("merge_cache_bytes", "-1", "greater than or equal to 0"),
    ("merge_retry_s", "0", "greater than 0"),
    ("learn_threads", "0", "greater than or equal to 1"),
    ("learn_lease_s", "0.5", "greater than or equal to 1"),
    ("learn_poll_s", "0", "greater than 0"),
    ("restart_backoff_s", "0", "greater than 0"),
    ("drain_s", "soon", "valid number"),
]


def test_table_below_has_every_setting() -> None:
    assert GIVEN.keys() == Settings.model_fields.keys()


@pytest.mark.parametrize("name", GIVEN)
def test_every_setting_has_its_variable_and_a_flag_that_wins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = GIVEN[name]
    assert getattr(Settings.load(), name) != value
    monkeypatch.setenv(f"POLYAD_{name.upper()}", text)
    assert getattr(Settings.load(), name) == value
    flag = f"--{name.replace('_', '-')}"
    arguments = [flag] if name == "allow_hub" else [flag, text]
    monkeypatch.setenv(f"POLYAD_{name.upper()}", "false" if name == "allow_hub" else text[:-1] + "9")
    if name in SECRETS:
        assert getattr(Settings.load(**{name: text}), name) == value
        return
    shown = CliRunner().invoke(polyad, ["serve", "--print-config", *arguments], terminal_width=1000)
    line = next(line for line in shown.output.splitlines() if line.split()[:1] == [name])
    assert str(value) in line


@pytest.mark.parametrize(("name", "text", "allowed"), BAD)
@pytest.mark.parametrize("by", ["flag", "variable"])
def test_bad_value_names_the_setting_what_came_and_what_may(
    name: str, text: str, allowed: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "variable":
        monkeypatch.setenv(f"POLYAD_{name.upper()}", text)
    with pytest.raises(ConfigError) as refused:
        Settings.load(**({name: text} if by == "flag" else {}))
    assert str(refused.value).startswith(f"{name}: got {text!r}, ")
    assert allowed in str(refused.value)


def test_several_bad_values_are_told_together() -> None:
    with pytest.raises(ConfigError, match=r"port: got 'x', .*; slots: got '0', .*"):
        Settings.load(port="x", slots="0")


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="slot: got 3"):
        Settings.load(slot=3)


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_show_nowhere(name: str) -> None:
    secret = "redis://:hush-hush@host/0"
    settings = Settings.load(**{name: secret})
    shown = [repr(settings), str(settings), str(settings.table()), settings.model_dump_json()]
    assert all("hush" not in text for text in shown)
    assert getattr(settings, name).get_secret_value() == secret
    with pytest.raises(ConfigError) as refused:
        Settings.load(**{name: secret}, port="x")
    assert "hush" not in str(refused.value)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().port = 1


def test_blobs_lie_in_the_state_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.load(state_dir="here").blobs_root == str(tmp_path / "here" / "blobs")
    assert Settings.load(blobs="s3://bucket/x").blobs_root == "s3://bucket/x"
