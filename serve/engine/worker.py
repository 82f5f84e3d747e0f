"""What the front end can ask of every worker by collective RPC; vLLM mixes this class into its worker."""

from typing import Any


class AdapterWorker:
    """`worker_extension_cls`: host-memory commands, run between two steps, so each must return at once."""

    model_runner: Any

    def polyad_load(self, engine_id: int, path: str, owner: str) -> None:
        self.model_runner.lora_manager.host.load(engine_id, path, owner)

    def polyad_state(self, engine_id: int) -> str:
        state: str = self.model_runner.lora_manager.host.state(engine_id)
        return state

    def polyad_drop(self, engine_ids: list[int]) -> None:
        self.model_runner.lora_manager.drop(engine_ids)

    def polyad_broken_off(self) -> int:
        """Steps that were broken off so far for a request that came."""
        return int(getattr(self.model_runner, "broken_off", 0))
