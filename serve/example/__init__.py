"""What `polyad serve --example` brings along: a small base model that needs no download from a hub."""

from polyad.serve.example.base_model import unpack_base_model

__all__ = ["unpack_base_model"]
