"""What the README says about settings and commands is what the code has."""

import re
from pathlib import Path

from polyad.serve.config import Settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def settings_table() -> str:
    """The README's table of settings, as the code declares them."""
    rows = ["| setting | default | |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None or field.default == () else f"`{field.default}`"
        rows.append(f"| `--{name.replace('_', '-')}`, `POLYAD_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_settings_are_documented() -> None:
    found = re.search(r"<!-- settings: begin -->\n(.*?)\n<!-- settings: end -->", README, re.DOTALL)
    assert found, "README.md has no table of settings"
    assert found[1] == settings_table()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z][a-z-]*)", README)):
        pattern = "bench-%" if target.startswith("bench-") else re.escape(target)
        assert re.search(rf"^{pattern}:", makefile, re.MULTILINE), f"README.md names make {target}"


def test_tree_names_existing_files() -> None:
    tree = README.partition("## The tree")[2].partition("```")[2].partition("```")[0]
    folders: list[tuple[int, str]] = []
    for line in filter(str.strip, tree.splitlines()):
        indent = len(line) - len(line.lstrip())
        folders = [(depth, name) for depth, name in folders if depth < indent]
        names = line.strip().split("  ")[0].split()
        for name in names:
            path = ROOT.joinpath(*(part for _, part in folders), name)
            assert path.exists(), f"README.md names {path.relative_to(ROOT)}"
        folders.append((indent, names[0]))
