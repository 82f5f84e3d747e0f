"""The losses of whole batches against TRL's trainers, on the same models and examples."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from polyad.serve.learn.train import losses
from polyad.serve.learn.train.log_probs import log_probs
from polyad.serve.learn.train.tokens import Row
from tests.fixtures.tiny_chat import tiny_chat

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "report_to": [],
    "use_cpu": True,
    "beta": 0.3,
    "gradient_checkpointing": False,
    "bf16": False,
}
PROMPTS = ["Where?", "What is it, and why?", "Who", "When was that?"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    torch.set_num_threads(1)
    folders = [tiny_chat(tmp_path_factory.mktemp("model"), seed) for seed in (1, 2)]
    model, reference = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    return model, reference, AutoTokenizer.from_pretrained(folders[0])


def rows(batch: dict[str, Any], prefix: str = "") -> list[Row]:
    found = []
    for ids, real, answer in zip(
        batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"], batch[f"{prefix}completion_mask"], strict=True
    ):
        said = tuple(ids[answer.bool()].tolist())
        found.append(Row(tuple(ids[real.bool() & ~answer.bool()].tolist()), said, said))
    return found


def said(model: Any, given: list[Row]) -> Any:
    return log_probs(model, given, padding=0)


@pytest.mark.parametrize(("kind", "smoothing"), [("sigmoid", 0.0), ("ipo", 0.0), ("robust", 0.2)])
def test_dpo(models: tuple[Any, Any, Any], tmp_path: Path, kind: str, smoothing: float) -> None:
    model, reference, tokenizer = models
    data = {
        "prompt": PROMPTS,
        "chosen": [" There.", " That, for reasons.", " Ann", " Then"],
        "rejected": [" No", " Who knows?", " Nobody at all", " Never."],
    }
    options = DPOConfig(str(tmp_path), loss_type=[kind], label_smoothing=smoothing, **OPTIONS)
    trainer = DPOTrainer(model, reference, options, train_dataset=Dataset.from_dict(data), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        expected = trainer.compute_loss(trainer.model, dict(batch))
        ours, theirs = said(model, rows(batch)), said(reference, rows(batch))
        counts = ours.counts.chunk(2)
        actual = losses.dpo(*ours.sums.chunk(2), *theirs.sums.chunk(2), 0.3, kind, smoothing, (counts[0], counts[1]))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_kto(models: tuple[Any, Any, Any], tmp_path: Path) -> None:
    model, reference, tokenizer = models
    data = {
        "prompt": PROMPTS,
        "completion": [" There.", " That, for reasons.", " Nobody at all", " Never."],
        "label": [True, True, False, False],
    }
    options = KTOConfig(str(tmp_path), desirable_weight=1.2, undesirable_weight=0.7, **OPTIONS)
    trainer = KTOTrainer(model, reference, options, train_dataset=Dataset.from_dict(data), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        expected = trainer.compute_loss(trainer.model, dict(batch))
        baseline = losses.kto_baseline(*(said(one, rows(batch, "KL_")).sums for one in (model, reference)))
        ours, theirs = said(model, rows(batch)).sums, said(reference, rows(batch)).sums
        desirable = torch.as_tensor(batch["label"]).bool()
        actual = losses.kto(ours, theirs, desirable, baseline, 0.3, (1.2, 0.7))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
