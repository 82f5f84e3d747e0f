"""URLs as messages and logs show them."""

import re


def masked(url: str) -> str:
    """The URL without its credentials, for logs and messages."""
    bare = re.sub(r"^([^:/@]*://)?.*@", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*pass[^=&]*=)[^&]*", r"\1***", bare)
