import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]


def test_push_sends_the_bytes_of_both_files(fake: Any, run: Run, folder: Path) -> None:
    result = run("adapter", "push", "robot", str(folder))
    assert result.exit_code == 0, result.output
    config = (folder / "adapter_config.json").read_bytes()
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert fake.service.pushed == [(config, weights)]
    digest = hashlib.sha256(weights).hexdigest()
    assert result.stdout == f"robot@v1 is new: lora, rank 8, 512.0 kB, {digest[:12]}, production\n"
    assert result.stderr == ""
    assert fake.service.initial is None


@pytest.mark.parametrize("beside", [True, False])
def test_push_sends_the_weights_from_before_training(
    fake: Any, run: Run, folder: Path, tmp_path: Path, beside: bool
) -> None:
    initial = folder / "initial" if beside else tmp_path / "before"
    initial.mkdir()
    (initial / "adapter_model.safetensors").write_bytes(b"before")
    result = run("adapter", "push", "robot", str(folder), *([] if beside else ["--initial", str(initial)]))
    assert result.exit_code == 0, result.output
    assert fake.service.initial == b"before"


def test_push_with_initial_weights_that_are_not_there(fake: Any, run: Run, folder: Path, tmp_path: Path) -> None:
    result = run("adapter", "push", "robot", str(folder), "--initial", str(tmp_path / "absent"))
    assert result.exit_code == 2
    assert "absent has no adapter_model.safetensors" in result.stderr
    result = run("adapter", "push", "robot", "hf://org/repository", "--initial", str(folder))
    assert result.exit_code == 2
    assert "--initial goes with a folder" in result.stderr
    assert fake.requests == []


def test_push_of_the_same_bytes_says_so(run: Run, folder: Path) -> None:
    run("adapter", "push", "robot", str(folder))
    result = run("adapter", "push", "robot", str(folder))
    assert "robot@v1 was there already, with the same bytes" in result.stdout


def test_push_points_an_alias_at_the_new_version(fake: Any, run: Run, folder: Path) -> None:
    fake.service.add("robot", b"other bytes")
    result = run("adapter", "push", "robot", str(folder), "--alias", "canary")
    assert fake.service.headers["robot"].aliases == {"production": 1, "canary": 2}
    assert "robot@v2 is new" in result.stdout and "canary" in result.stdout


@pytest.mark.parametrize(("options", "alias"), [([], {}), (["--alias", "canary"], {"alias": "canary"})])
def test_push_of_a_url_sends_no_file(fake: Any, run: Run, options: list[str], alias: dict[str, str]) -> None:
    result = run("adapter", "push", "robot", "hf://org/repository@main", *options)
    assert result.exit_code == 0, result.output
    body = {"name": "robot", "source": "hf://org/repository@main", **alias}
    assert fake.requests == [("POST", "/v1/adapters", body)]


def test_push_shows_how_far_it_is_on_a_terminal_only(run: Run, folder: Path) -> None:
    result = run("adapter", "push", "robot", str(folder), env={"FORCE_COLOR": "1", "TERM": "xterm"})
    assert "pushing" in result.stderr
    assert "pushing" not in result.stdout


def test_push_json_is_the_servers(run: Run, folder: Path) -> None:
    result = run("adapter", "push", "robot", str(folder), "--json")
    version = json.loads(result.stdout)
    assert (version["adapter"], version["version"], version["size"]) == ("robot", "v1", 512000)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("adapter_config.json", "has no adapter_config.json"),
        ("adapter_model.safetensors", "has no adapter_model.safetensors"),
    ],
)
def test_push_without_a_file_sends_nothing(fake: Any, run: Run, folder: Path, removed: str, message: str) -> None:
    (folder / removed).unlink()
    result = run("adapter", "push", "robot", str(folder))
    assert result.exit_code == 2
    assert message in result.stderr
    assert fake.requests == []


def test_push_from_no_folder_sends_nothing(fake: Any, run: Run, tmp_path: Path) -> None:
    result = run("adapter", "push", "robot", str(tmp_path / "absent"))
    assert result.exit_code == 2
    assert "allowed: a folder with adapter_config.json and adapter_model.safetensors, or a URL" in result.stderr
    assert fake.requests == []


@pytest.mark.parametrize("name", ["..", "../x", "Robot", "a/b", "röbot", ""])
def test_names_that_cannot_be_are_refused_before_sending(fake: Any, run: Run, name: str) -> None:
    result = run("adapter", "rm", name, "--yes")
    assert result.exit_code == 2
    assert "allowed: [a-z0-9]" in result.stderr
    assert fake.requests == []


def test_ls_pages_through_all(fake: Any, run: Run) -> None:
    names = [f"adapter-{number:03}" for number in range(401)]
    for name in names:
        fake.service.add(name)
    result = run("adapter", "ls")
    shown = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("adapter-")]
    assert shown == names
    assert [path for _, path, _ in fake.requests] == [
        "/v1/adapters?limit=200",
        "/v1/adapters?limit=200&after=adapter-199",
        "/v1/adapters?limit=200&after=adapter-399",
    ]
    listed = json.loads(run("adapter", "ls", "--json").stdout)
    assert [entry["name"] for entry in listed["data"]] == names
    assert listed["after"] is None


def test_ls_shows_aliases_whole_where_no_terminal_cuts(fake: Any, run: Run) -> None:
    fake.service.add("robot")
    for number in range(30):
        fake.service.headers["robot"].aliases[f"alias-{number:02}"] = 1
    line = next(line for line in run("adapter", "ls").stdout.splitlines() if line.startswith("robot"))
    assert all(f"alias-{number:02} v1" in line for number in range(30))


def test_ls_and_show_say_the_kind(fake: Any, run: Run) -> None:
    fake.service.add("robot", b"one")
    fake.service.versions[0] = fake.service.versions[0].model_copy(update={"kind": "ia3"})
    for command in ("ls", "show"):
        lines = [
            line.split()
            for line in run("adapter", command, *(["robot"] if command == "show" else [])).stdout.splitlines()
        ]
        header, row = next(line for line in lines if "kind" in line), next(line for line in lines if "v1" in line[:3])
        assert row[header.index("kind")] == "ia3"


def test_show_lists_versions_newest_first(fake: Any, run: Run) -> None:
    for content in (b"one", b"two", b"three"):
        fake.service.add("robot", content)
    fake.service.headers["robot"].aliases["canary"] = 2
    result = run("adapter", "show", "robot")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert "canary v2, production v1" in result.stdout
    assert [line[:2] for line in lines if line and line[0] in {"v1", "v2", "v3"}] == [
        ["v3", "-"],
        ["v2", "canary"],
        ["v1", "production"],
    ]
    shown = json.loads(run("adapter", "show", "robot", "--json").stdout)
    assert [version["version"] for version in shown["versions"]] == ["v3", "v2", "v1"]


@pytest.mark.parametrize("reference", ["v2", "canary", hashlib.sha256(b"two").hexdigest()])
def test_show_of_one_version(fake: Any, run: Run, reference: str) -> None:
    fake.service.add("robot", b"one")
    fake.service.add("robot", b"two", "hf://org/repository@main")
    fake.service.headers["robot"].aliases["canary"] = 2
    shown = run("adapter", "show", f"robot@{reference}").stdout
    for text in (
        "v2",
        hashlib.sha256(b"two").hexdigest(),
        "3 bytes",
        "lora",
        "q_proj, v_proj",
        "hf://org/repository@main",
    ):
        assert text in shown


def test_rm_asks_first(fake: Any, run: Run) -> None:
    fake.service.add("robot")
    refused = run("adapter", "rm", "robot", input="n\n")
    assert refused.exit_code == 1
    assert "Delete robot with all its versions?" in refused.stderr
    assert "robot" in fake.service.headers
    agreed = run("adapter", "rm", "robot", input="y\n")
    assert (agreed.exit_code, agreed.stdout) == (0, "deleted robot with all its versions\n")
    assert fake.service.headers == {}


def test_rm_of_a_version_leaves_the_others(fake: Any, run: Run) -> None:
    fake.service.add("robot", b"one")
    fake.service.add("robot", b"two")
    assert run("adapter", "rm", "robot@v2", "--yes").stdout == "deleted robot@v2\n"
    assert [version.number for version in fake.service.versions] == [1]
    in_use = run("adapter", "rm", "robot@v1", "--yes")
    assert in_use.exit_code == 1
    assert in_use.stderr == "polyad: version: robot@v1 is needed by an alias (409 Conflict)\n"


def test_pin_and_unpin(fake: Any, run: Run) -> None:
    fake.service.add("robot")
    assert run("adapter", "pin", "robot@v1").stdout == "robot@v1 is pinned\n"
    assert fake.service.version("robot", "v1").pinned
    assert run("adapter", "unpin", "robot@v1").stdout == "robot@v1 is not pinned\n"
    assert not fake.service.version("robot", "v1").pinned
    assert run("adapter", "pin", "robot").exit_code == 2


@pytest.mark.parametrize(("options", "dry_run", "verb"), [((), False, "removed"), (("--dry-run",), True, "would be")])
def test_collect(fake: Any, run: Run, options: tuple[str, ...], dry_run: bool, verb: str) -> None:
    result = run("adapter", "collect", *options)
    assert fake.requests == [("POST", "/v1/collections", {"dry_run": dry_run})]
    first, last = result.stdout.splitlines()
    assert first.startswith("robot@v1: lora, rank 8, 3 bytes, abababababab")
    assert last.startswith(verb) and last.endswith("removed: versions 1, files 2")
