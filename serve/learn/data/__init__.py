"""From feedback events to a dataset that says why each example is in it, or is not."""

from polyad.serve.learn.data.dataset import Dataset, build, is_held_out
from polyad.serve.learn.data.events import Converted, convert
from polyad.serve.learn.data.example import Decision, Example, Prompt
from polyad.serve.learn.data.memory import Memory

__all__ = ["Converted", "Dataset", "Decision", "Example", "Memory", "Prompt", "build", "convert", "is_held_out"]
