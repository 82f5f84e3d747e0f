import json

import pytest

from polyad.serve.cli.event_stream import events
from polyad.serve.cli.failure import Failure

STREAM = (
    b": a comment\n\nevent: x\r\ndata: "
    + json.dumps({"text": "a\u2028b\x85c é"}, ensure_ascii=False).encode()
    + b'\r\n\r\ndata:{"text": "d"}\n\ndata: [DONE]\n\ndata: {"text": "behind the end"}\n\n'
)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_the_same_however_they_arrive(size: int) -> None:
    chunks = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [event["text"] for event in events(chunks)] == ["a\u2028b\x85c é", "d"]


def test_end_mark_needs_no_line_end() -> None:
    assert list(events([b'data: {"text": "a"}\n\n', b"data: [DONE]"])) == [{"text": "a"}]


def test_stream_without_its_end_is_broken() -> None:
    with pytest.raises(Failure, match="broke off"):
        list(events([b'data: {"text": "a"}\n\n']))
