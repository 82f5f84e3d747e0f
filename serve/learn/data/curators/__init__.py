"""Which examples are worth training on: one file for each way to choose."""

from polyad.serve.learn.data.curators.curator import Choice, Curator, Options, Scorer
from polyad.serve.learn.data.curators.registry import CURATORS, check_curators, curate

__all__ = ["CURATORS", "Choice", "Curator", "Options", "Scorer", "check_curators", "curate"]
