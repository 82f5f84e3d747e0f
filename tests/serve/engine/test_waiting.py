"""Readers and writers of vLLM's own kind, in threads."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

from polyad.serve.engine.waiting import Waiting

Pair = Callable[[type[SpinCondition]], tuple[SpinCondition, SpinCondition]]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """One who is told, and one who tells; they know each other."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[SpinCondition] = []

    def make(kind: type[SpinCondition]) -> tuple[SpinCondition, SpinCondition]:
        address = f"ipc://{tmp_path}/{kind.__name__}"
        writer, reader = kind(False, context, address), kind(True, context, address)
        made.extend((writer, reader))
        introduce(writer, reader)
        return reader, writer

    yield make
    for one in made:
        for end in (one.local_notify_socket, one.read_cancel_socket, getattr(one, "write_cancel_socket", None)):
            if end is not None:
                end.close(linger=0)
    context.term()


def introduce(writer: SpinCondition, reader: SpinCondition) -> None:
    """Who has just subscribed is told nothing yet: tell until something comes."""
    told = threading.Event()

    def tell() -> None:
        while not told.is_set():
            writer.notify()
            time.sleep(0.001)

    teller = threading.Thread(target=tell)
    teller.start()
    reader.poller.poll(10_000)
    told.set()
    teller.join()
    while reader.poller.poll(50):
        reader.local_notify_socket.recv()


def looks(reader: SpinCondition, seconds: float) -> int:
    """How often who waits for so long looks whether a message is there."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        reader.record_read()
        reader.wait(5000)
        count += 1
    return count


def test_who_waits_leaves_the_core_to_others(pair: Pair) -> None:
    (ours, _), (stock, _) = pair(Waiting), pair(SpinCondition)
    # A look a millisecond; vLLM's own looks as often as it can.
    assert 0 < looks(ours, 0.3) <= 310 < looks(stock, 0.3)


def test_a_notice_ends_the_wait(pair: Pair) -> None:
    reader, writer = pair(Waiting)
    # So long ago that it waits for a notice alone.
    reader.last_read = time.monotonic() - 60
    threading.Timer(0.05, writer.notify).start()
    began = time.monotonic()
    reader.wait(60_000)
    assert time.monotonic() - began < 30
