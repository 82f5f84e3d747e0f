"""Simulated users: they ask the served adapter, and say what they think of its answers."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from polyad.serve.learn.gate.statistics import interval

ASKING = 4
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Question:
    """`answer` is what a user who means well would correct others to."""

    text: str
    answer: str
    is_right: Callable[[str], bool]


@dataclass(frozen=True)
class Visit:
    """One user's question, and his feedback on the answer that he gets."""

    user: str
    question: Question
    react: Callable[[str], dict[str, Any]]


# The visit of a number: each number comes once.
Visits = Callable[[int], Visit]


@dataclass(frozen=True)
class Said:
    """What the adapter answered; whether that ended by itself."""

    response: str
    text: str
    ended: bool


@dataclass(frozen=True)
class Marks:
    """What was answered in an examination, and how many of the answers are right."""

    answers: tuple[str, ...]
    right: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        return interval(self.right, len(self.answers))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.right} of {len(self.answers)} right, 95 % interval {low:.2f} to {high:.2f}"


class Users:
    """Everybody who uses one adapter, over HTTP."""

    def __init__(self, url: str, adapter: str, max_tokens: int) -> None:
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)
        self._adapter = adapter
        self._max_tokens = max_tokens
        self._next = 0

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON that answers a request."""
        response = self._http.request(method, path, **options)
        if response.is_error:
            raise SystemExit(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()

    def stream(self, count: int, visits: Visits) -> float:
        """Several users at once; the share of right answers."""
        numbers = range(self._next, self._next + count)
        self._next += count
        with ThreadPoolExecutor(ASKING) as pool:
            return sum(pool.map(lambda number: self._attend(number, visits(number)), numbers)) / count

    def examine(self, questions: Sequence[Question]) -> Marks:
        """What the served adapter makes of these questions; no feedback is given."""
        with ThreadPoolExecutor(ASKING) as pool:
            answers = tuple(pool.map(lambda question: self._ask(question, "examiner").text, questions))
        right = sum(question.is_right(answer) for question, answer in zip(questions, answers, strict=True))
        return Marks(answers, right)

    def _attend(self, number: int, visit: Visit) -> bool:
        said = self._ask(visit.question, visit.user)
        # The server keeps no answer that was cut off before its first word.
        if said.text or said.ended:
            given = {"response": said.response, "id": f"{visit.user}/{number}", **visit.react(said.text)}
            self.call("POST", "/v1/feedback", json=given)
        return visit.question.is_right(said.text)

    def _ask(self, question: Question, user: str) -> Said:
        body = {
            "model": self._adapter,
            "messages": [{"role": "user", "content": question.text}],
            "temperature": 0,
            "max_tokens": self._max_tokens,
            "user": user,
        }
        said = self.call("POST", "/v1/chat/completions", json=body)
        choice = said["choices"][0]
        return Said(said["id"], choice["message"]["content"].strip(), choice["finish_reason"] == "stop")
