"""What a composition answers rightly: every task's questions, judged by the task's own verifier, with intervals."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from polyad.serve.learn.gate.statistics import interval, mcnemar
from tests.bench.experts import Task

AT_ONCE = 32
MAX_TOKENS = 24

Marks = dict[str, list[bool]]


@dataclass(frozen=True)
class Paper:
    """One task's questions, with what verifies the answers."""

    verifier: Any
    entries: Sequence[Mapping[str, Any]]


def papers(tasks: Mapping[str, Task], count: int) -> dict[str, Paper]:
    """So many questions of each task, which no expert was trained on."""
    return {name: Paper(*task.examination(count)) for name, task in tasks.items()}


def examine(url: str, model: str, asked: Mapping[str, Paper]) -> Marks:
    """Which questions of each task `model`, any composition, answers rightly, greedily."""
    return asyncio.run(_examine(url, model, asked))


async def _examine(url: str, model: str, asked: Mapping[str, Paper]) -> Marks:
    places = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as http:

        async def right(paper: Paper, entry: Mapping[str, Any]) -> bool:
            async with places:
                answer = await _answer(http, model, entry["question"])
            return bool(paper.verifier.score_answer(answer, entry) == 1)

        marks = {}
        for task, paper in asked.items():
            marks[task] = list(await asyncio.gather(*(right(paper, entry) for entry in paper.entries)))
        return marks


async def _answer(http: httpx.AsyncClient, model: str, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS}
    answer = await http.post("/v1/chat/completions", json=body)
    if answer.is_error:
        raise RuntimeError(f"{model}: {answer.status_code} {answer.text}")
    return str(answer.json()["choices"][0]["message"]["content"]).strip()


def pooled(marks: Marks) -> list[bool]:
    """All tasks' questions as one stream, in which nobody says which task a question is of."""
    return [mark for one in marks.values() for mark in one]


def table_head(tasks: Sequence[str]) -> str:
    head = ["| |", *(f" {task} |" for task in tasks), " all as one stream |"]
    return "".join(head) + "\n" + "| --- |" + " --- |" * (len(tasks) + 1)


def table_row(label: str, marks: Marks) -> str:
    """Shares in percent, with Wilson's 95 % intervals."""
    return f"| {label} |" + "".join(f" {_share(one)} |" for one in (*marks.values(), pooled(marks)))


def _share(marks: Sequence[bool]) -> str:
    low, high = interval(sum(marks), len(marks))
    return f"{100 * sum(marks) / len(marks):.0f} ({100 * low:.0f} to {100 * high:.0f})"


def examine_all(url: str, models: Mapping[str, str], asked: Mapping[str, Paper]) -> dict[str, Marks]:
    """The marks of each composition by its label; a table's row for each as it comes."""
    print(table_head(list(asked)), flush=True)
    found = {}
    for label, model in models.items():
        found[label] = examine(url, model, asked)
        print(table_row(label, found[label]), flush=True)
    return found


def right_expert(found: Mapping[str, Marks], tasks: Sequence[str]) -> Marks:
    """The marks of who always asks the expert of the task, which bears the task's name."""
    return {task: found[task][task] for task in tasks}


def verdicts(found: Mapping[str, Marks], singles: Sequence[str]) -> dict[str, float]:
    """Each composition's share of the whole stream. Prints the chance that it is no better than the best adapter."""
    shares = {label: sum(pooled(marks)) / len(pooled(marks)) for label, marks in found.items()}
    best = max(singles, key=shares.__getitem__)
    for label in found.keys() - set(singles):
        pairs = list(zip(pooled(found[label]), pooled(found[best]), strict=True))
        won, lost = pairs.count((True, False)), pairs.count((False, True))
        print(f"{label}: {won} won, {lost} lost against {best}, p = {mcnemar(won, lost):.2g} that it is no better")
    return {"best_single": shares[best], **{label: share for label, share in shares.items() if label not in singles}}
