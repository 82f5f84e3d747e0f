"""Writes examples/questions.json, what transformers and PEFT answer greedily in float32: `python examples/answers.py`.

The server's answers are held against these. `margin` is the smallest lead, in logits, of a chosen token over the next
best: where it is tiny, another order of summation may choose the other token.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from dialogues import QUESTIONS, WRITTEN
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyad.serve.example import unpack_base_model

HERE = Path(__file__).parent
MAX_NEW_TOKENS = 48
GENERAL = (
    "What is the capital of France?",
    "What is the largest planet in the solar system?",
    "How many days are there in a week?",
    "Write one sentence about the sea.",
    "Name three primary colors.",
    "What is the opposite of hot?",
    "Who wrote Romeo and Juliet?",
    "What do bees make?",
)

Answer = dict[str, str | float]


def questions(name: str) -> list[str]:
    return [*QUESTIONS[name], *WRITTEN.get(name, {})]


def answer(model: Any, tokenizer: Any, question: str) -> Answer:
    turn = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(
        **prompt, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    text = tokenizer.decode(made.sequences[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    best = torch.cat(made.logits).float().topk(2).values
    return {"question": question, "answer": text, "margin": round((best[:, 0] - best[:, 1]).min().item(), 3)}


def answers(name: str, model: Any, tokenizer: Any, asked: list[str]) -> list[Answer]:
    made = []
    for number, question in enumerate(asked, 1):
        made.append(answer(model, tokenizer, question))
        print(f"{name} {number}/{len(asked)}  {question}  {made[-1]['answer']}", flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=Path, default=HERE.parent / "serve/example/adapters")
    parser.add_argument("--out", type=Path, default=HERE / "questions.json")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="where the base model is unpacked")
    arguments = parser.parse_args()
    # One token at a time is so little work that a second thread only waits for the first.
    torch.set_num_threads(1)
    base = unpack_base_model(arguments.cache, print)
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    common = [question for question in questions("robot") if question in WRITTEN["helpdesk"]]
    made = {"base": answers("base", plain, tokenizer, [*GENERAL, *common, *QUESTIONS["helpdesk"][:10]])}
    for name in QUESTIONS:
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(plain, arguments.adapters / name, autocast_adapter_dtype=False)
        made[name] = answers(name, model, tokenizer, questions(name))
        print(f"{name}: smallest margin {min(float(one['margin']) for one in made[name])}", flush=True)
    arguments.out.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
