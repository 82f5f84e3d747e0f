"""Whether a candidate may take its parent's place."""

from polyad.serve.learn.gate.finding import Finding
from polyad.serve.learn.gate.gate import Verdict, judge

__all__ = ["Finding", "Verdict", "judge"]
