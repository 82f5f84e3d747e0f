"""Tells the files that people send by mistake from safetensors, by their first bytes."""

from polyad.adapters_store.errors import InvalidAdapter

KIND_BYTES = 9

_KINDS = (
    (b"PK\x03\x04", "a zip archive (torch.save writes one: adapter_model.bin)"),
    (b"\x80", "a pickle (adapter_model.bin)"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version ", "a Git LFS pointer, not the file that it stands for"),
)


def refuse_other_kinds(field: str, start: bytes) -> None:
    """Raise InvalidAdapter if `start`, the first KIND_BYTES of a file, is that of another known kind."""
    # the length of a safetensors header can look like any magic number; the brace after it cannot
    if start[8:9] == b"{":
        return
    for magic, kind in _KINDS:
        if start.startswith(magic):
            raise InvalidAdapter(field, kind, "a safetensors file (adapter_model.safetensors); nothing else is read")
