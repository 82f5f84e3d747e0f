import json

from click.testing import CliRunner

from polyad.serve.cli.main import polyad
from polyad.serve.config import Settings

SECRETS = {
    "POLYAD_API_KEY": "secret-api-key",
    "POLYAD_ADMIN_KEY": "secret-admin-key",
    "POLYAD_REDIS_URL": "redis://user:secret-password@redis.internal:6379",
}


def test_table_has_every_setting_and_no_secret() -> None:
    for command in (["config"], ["serve", "--print-config"]):
        result = CliRunner(env=SECRETS).invoke(polyad, [*command, "--slots", "3"])
        assert result.exit_code == 0
        rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
        assert rows.keys() - {"setting"} >= Settings.model_fields.keys()
        assert rows["slots"][1:3] == ["3", "POLYAD_SLOTS"]
        assert [rows[name][1] for name in ("api_key", "admin_key", "redis_url")] == ["**********"] * 3
        assert "secret" not in result.output.replace("secrets", "")
        assert rows["blobs"][1] == "-"


def test_json_has_every_setting_and_no_secret() -> None:
    result = CliRunner(env=SECRETS).invoke(polyad, ["config", "--json", "--allow-source", "s3://a/,s3://b/"])
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert entries.keys() == Settings.model_fields.keys()
    assert entries["allow_source"]["value"] == ["s3://a/", "s3://b/"]
    assert entries["slots"] == {
        "name": "slots",
        "value": Settings().slots,
        "environment": "POLYAD_SLOTS",
        "explanation": Settings.model_fields["slots"].description,
    }
    assert "secret-" not in result.output


def test_config_knows_no_vllm_options() -> None:
    assert CliRunner().invoke(polyad, ["config", "--max-model-len", "1"]).exit_code == 2
