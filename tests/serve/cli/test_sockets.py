import os
import socket
from pathlib import Path

import pytest

from polyad.serve.cli.sockets import VARIABLE, socket_folder


def test_sockets_are_gone_with_their_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with socket_folder():
        folder = Path(os.environ[VARIABLE])
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(folder / "0f3a0f3a-0f3a-0f3a-0f3a-0f3a0f3a0f3a"))
        left.close()
        assert list(folder.iterdir())
    assert not folder.exists() and VARIABLE not in os.environ


def test_a_folder_that_somebody_chose_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with socket_folder():
        assert os.environ[VARIABLE] == str(tmp_path)
    assert tmp_path.exists()
