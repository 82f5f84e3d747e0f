"""What can be added to a training, one file for each."""

from polyad.serve.learn.train.options.option import Option, Training
from polyad.serve.learn.train.options.registry import OPTIONS, options_of

__all__ = ["OPTIONS", "Option", "Training", "options_of"]
