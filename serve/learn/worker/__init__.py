"""The process that turns feedback into versions."""

from polyad.serve.learn.worker.worker import Worker
from polyad.serve.learn.worker.workshop import Workshop

__all__ = ["Worker", "Workshop"]
