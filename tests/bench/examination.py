"""What compositions of the experts answer rightly: every task's questions, judged by the task's own verifier."""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from polyad.serve.example import unpack_base_model
from polyad.serve.learn.gate.statistics import interval, mcnemar
from tests.bench.adapters import push_to_polyad
from tests.bench.experts import RANK, SETTINGS, TASKS, Task, experts
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, polyad

AT_ONCE = 32
MAX_TOKENS = 24
QUESTIONS = 100
MAX_RANK = 64
SERVER = ("--slots", "8", "--max-rank", str(MAX_RANK), "--merge-wait-s", "600", "--merge-threads", "2")

Marks = dict[str, list[bool]]
Folders = dict[str, Path]
# From the base model, the experts and a folder for what is made on the way: adapters to push beside the experts.
Others = Callable[[Path, Folders, Path], Folders]


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


def examination(name: str, about: str | None, compositions: Mapping[str, str], others: Others = lambda *_: {}) -> None:
    """The whole benchmark: train the experts, serve them, ask every composition, print tables and verdicts."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    parser.add_argument("--experts", type=Path, default=Path(".cache/experts"))
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of each task")
    given = parser.parse_args()
    model = unpack_base_model(given.base_models, print)
    tasks = {expert: f"{task.name} {dict(task.options)}" for expert, task in TASKS.items()}
    settings = {"model": model.name, "dtype": DTYPE, "rank": RANK, "questions": given.questions, **tasks}
    print_header(name, {**settings, "training": SETTINGS.model_dump(exclude_defaults=True)})
    folders = experts(model, given.experts)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pushed = {**folders, **others(model, folders, scratch)}
        with polyad(model, scratch, *SERVER) as server:
            for adapter, path in pushed.items():
                push_to_polyad(server.url, adapter, path)
            found = examine_all(server.url, compositions, papers(TASKS, given.questions))
    found["right_expert"] = right_expert(found, list(TASKS))
    print(table_row("right_expert", found["right_expert"]))
    print_result(verdicts(found, list(TASKS)))
