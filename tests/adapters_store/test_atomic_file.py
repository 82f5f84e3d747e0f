import os
from pathlib import Path

import pytest

from polyad.adapters_store.atomic_file import atomic_file, remove_partials


def test_the_name_appears_with_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_old_partials_are_removed(tmp_path: Path) -> None:
    (tmp_path / "kept.partial").write_bytes(b"not ours")
    for name in (".old.partial", ".young.partial"):
        (tmp_path / name).write_bytes(b"")
    for name in ("kept.partial", ".old.partial"):
        os.utime(tmp_path / name, (1, 1))
    assert remove_partials(tmp_path, older_than_seconds=60) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"kept.partial", ".young.partial"}
