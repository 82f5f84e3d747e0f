"""Examples as token ids."""

from dataclasses import dataclass, replace
from typing import Any

from polyad.serve.learn.data import Prompt


@dataclass(frozen=True)
class Row:
    """What a model is given, and the answer that it is to give: the labels of the last tokens. `seen` is what stands in
    the answer's places in the input; it differs from `answer` only where an option hides tokens."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    seen: tuple[int, ...]
    task: str = ""

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)

    def hiding(self, seen: tuple[int, ...]) -> "Row":
        return replace(self, seen=seen)


class Encoder:
    """Tokens as the engine makes them: conversations by the model's chat template, other prompts as they are."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self._max_length = max_length

    @property
    def padding(self) -> int:
        """A token that may stand where nothing is attended to."""
        tokenizer = self.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """The ids of a prompt, up to where the answer begins."""
        if isinstance(prompt, str):
            return tuple(self.tokenizer(prompt).input_ids)
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
        if self.tokenizer.chat_template is None:
            return tuple(self.tokenizer("\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)).input_ids)
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def row(self, prompt: Prompt, answer: str, ended: bool, task: str = "") -> Row:
        """Prompt and answer; its end is learnt only if it ended by itself. What is too long loses its beginning."""
        ids = tuple(self.tokenizer(answer, add_special_tokens=False).input_ids)
        if ended and self.tokenizer.eos_token_id is not None:
            ids = (*ids, self.tokenizer.eos_token_id)
        # Where there is nothing, not even the end, the padding stands for it.
        ids = ids[: self._max_length - 1] or (self.padding,)
        before = self.prompt(prompt)[-(self._max_length - len(ids)) :] or (self.padding,)
        return Row(before, ids, ids, task)
