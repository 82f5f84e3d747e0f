"""The border for adapters: from their files, checked to the last byte, to the canonical delta file."""

from polyad.adapters_store.admission.admission import Admitted, admit
from polyad.adapters_store.admission.limits import Limits

__all__ = ["admit", "Admitted", "Limits"]
