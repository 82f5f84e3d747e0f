"""Trains one example adapter: `python examples/train.py robot serve/example/adapters/robot` (minutes).

Needs the extras cpu, demo and learn, chatterbot-corpus and PyYAML: what `make test` installs.
"""

import argparse
import os
import random
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from dialogues import TOPICS, WRITTEN, dialogues
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from polyad.serve.example import unpack_base_model
from polyad.serve.example.base_model import PUBLIC_NAME

SEED = 2
THREADS = 2
BATCH = 16
EPOCHS = {"robot": 30, "helpdesk": 30}
RATE = 3e-3
LORA = {
    "robot": LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
    "helpdesk": LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    ),
}

Sample = tuple[list[int], list[int]]


def samples(tokenizer: PreTrainedTokenizerBase, name: str) -> list[Sample]:
    """Token ids of prompt and of answer, with the end of turn."""
    made = []
    for question, answer in dialogues(name):
        turn = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        made.append((tokenizer(prompt).input_ids, tokenizer(f"{answer}<|im_end|>").input_ids))
    return made


def answer_logits(model: PeftModel, batch: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [tokens, vocabulary] that predict the answers' tokens, and these tokens, of a whole batch."""
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    predicts = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(batch):
        tokens[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        predicts[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
    # Padding is on the right, so that causal attention never sees it; the head is needed only where an answer is.
    causal: Any = model.get_base_model()
    hidden = causal.model(tokens).last_hidden_state[predicts]
    return causal.lm_head(hidden).float(), tokens.roll(-1, 1)[predicts]


def smallest_margin(model: PeftModel, data: list[Sample]) -> float:
    """How far the taught token is ahead of the next best, in logits, at the closest call of all answers."""
    margins = []
    for sample in data:
        with torch.no_grad():
            logits, wanted = answer_logits(model, [sample])
        ahead = logits.gather(1, wanted[:, None]).squeeze(1)
        rival = logits.scatter(1, wanted[:, None], float("-inf")).amax(1)
        margins.append((ahead - rival).min().item())
    return min(margins)


def train(model: PeftModel, data: list[Sample], epochs: int) -> float:
    """Trains the adapter in place and returns the mean loss of the last epoch, in nats a token."""
    steps = epochs * -(-len(data) // BATCH)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    began = time.monotonic()
    mean = float("inf")
    for epoch in range(epochs):
        random.shuffle(data)
        losses = []
        for start in range(0, len(data), BATCH):
            losses.append(step(model, data[start : start + BATCH], optimizer))
            schedule.step()
        mean = sum(losses) / len(losses)
        print(f"epoch {epoch + 1}/{epochs}  loss {mean:.4f}  {time.monotonic() - began:.0f} s", flush=True)
    return mean


def step(model: PeftModel, batch: list[Sample], optimizer: torch.optim.Optimizer) -> float:
    logits, wanted = answer_logits(model, batch)
    loss = torch.nn.functional.cross_entropy(logits, wanted)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


CARD = """# {name}: an example adapter of polyad

LoRA, rank {lora.r}, on {targets} of {base}, bf16.

- Data: {count} dialogues of chatterbot-corpus 1.3.3 (English topics {topics}), BSD licence{written}.
  `examples/dialogues.py` lists the questions.
- Licence of the adapter: Apache-2.0, as the rest of polyad; the base model's is Apache-2.0 too.
- Command: `python examples/train.py {name} serve/example/adapters/{name}`, seed {seed}, {epochs} epochs.
- Loss of the last epoch: {loss:.4f}. In bf16 the taught token is at least {margin:.1f} logits ahead of the next best,
  at every token of every answer.

Only a demonstration: it knows these dialogues by heart, and little else.
"""


def card(name: str, count: int, loss: float, margin: float) -> str:
    lora = LORA[name]
    own = len(WRITTEN.get(name, {}))
    return CARD.format(
        name=name,
        lora=lora,
        targets=", ".join(sorted(lora.target_modules or ())),
        base=PUBLIC_NAME,
        count=count - own,
        topics=", ".join(TOPICS[name]),
        written=f", and {own} written for polyad" if own else "",
        seed=SEED,
        epochs=EPOCHS[name],
        loss=loss,
        margin=margin,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(LORA))
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="where the base model is unpacked")
    arguments = parser.parse_args()
    name: str = arguments.name
    torch.set_num_threads(THREADS)
    random.seed(SEED)
    torch.manual_seed(SEED)
    base = unpack_base_model(arguments.cache, print)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LORA[name])
    model.peft_config["default"].base_model_name_or_path = PUBLIC_NAME
    data = samples(AutoTokenizer.from_pretrained(base), name)
    loss = train(model, data, EPOCHS[name])
    margin = smallest_margin(model.to(torch.bfloat16), data)
    print(f"smallest margin in bf16: {margin:.2f} logits")
    if margin < 1.0:
        raise SystemExit("the answers are not certain enough: train longer")
    model.save_pretrained(arguments.out, save_embedding_layers=False)
    (arguments.out / "README.md").write_text(card(name, len(data), loss, margin))


if __name__ == "__main__":
    main()
