"""Training a candidate: PEFT's adapters, the losses, and a loop that a kill does not lose."""

from polyad.serve.learn.train.parent import continued, delta_of, save_delta
from polyad.serve.learn.train.tokens import Encoder
from polyad.serve.learn.train.trainer import Trainer, TrainingFailed, Watch

__all__ = ["Encoder", "Trainer", "TrainingFailed", "Watch", "continued", "delta_of", "save_delta"]
