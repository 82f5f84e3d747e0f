import os
from pathlib import Path

import pytest

from polyad.adapters_store.atomic_file import atomic_file, atomic_link, remove_partials


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


def test_a_link_replaces_what_was_there_and_leaves_nothing_else(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "folder" / "name"
    path.parent.mkdir()
    path.write_bytes(b"old")
    source.write_bytes(b"new")
    for _ in range(2):  # the second time they are one file already
        atomic_link(source, path)
        assert path.read_bytes() == b"new"
        assert list(path.parent.iterdir()) == [path]
    source.unlink()
    assert path.read_bytes() == b"new"


def test_a_link_that_cannot_be_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    with pytest.raises(OSError):
        atomic_link(tmp_path / "nowhere", path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
