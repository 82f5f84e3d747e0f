"""Where a server and its engine talk: vLLM makes sockets, and leaves them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

VARIABLE = "VLLM_RPC_BASE_PATH"


@contextmanager
def socket_folder() -> Iterator[None]:
    """Within, vLLM's sockets are in a folder of their own, unless the environment names one. It is removed afterwards.

    It is under the system's temporary folder: a socket's path may have 107 bytes, and not every volume can hold one.
    """
    if VARIABLE in os.environ:
        yield
        return
    with TemporaryDirectory(prefix="polyad-", ignore_cleanup_errors=True) as folder:
        os.environ[VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[VARIABLE]
