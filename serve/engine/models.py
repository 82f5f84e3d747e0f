"""The model names that vLLM's OpenAI handlers know: the base model's, and whatever the registry resolves."""

from collections.abc import Iterator, Mapping
from typing import Any

from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ModelCard, ModelList, ModelPermission
from vllm.lora.request import LoRARequest

from polyad.serve.compose import Resolver
from polyad.serve.engine.catalog import Catalog
from polyad.serve.engine.engine_errors import refusing
from polyad.serve.engine.identity import PlannedRequest, planned


class AdapterNames(Mapping[str, LoRARequest]):
    """What handlers ask for a model name. Resolved at each look-up from the snapshot; nothing is kept per name.

    What cannot be resolved raises Refused (for UnknownModel, or for what is wrong with a composition), so that it can
    never be taken for the base model.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    @property
    def _resolver(self) -> Resolver:
        return self._catalog.resolver

    def __contains__(self, model: object) -> bool:
        if not isinstance(model, str) or not model or self._resolver.is_base(model):
            return False
        self[model]
        return True

    def __getitem__(self, model: str) -> LoRARequest:
        with refusing():
            return planned(self._resolver.plan(model))

    def __iter__(self) -> Iterator[str]:
        # Only asked for to match adapters by media type, which polyad's names never are.
        return iter(())

    def __len__(self) -> int:
        return 0


class AdapterModels(OpenAIServingModels):
    """vLLM's list of served models, over the registry instead of a dictionary of its own."""

    def __init__(self, *args: Any, catalog: Catalog, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._catalog = catalog
        self.lora_requests = AdapterNames(catalog)

    def model_name(self, lora_request: LoRARequest | None = None) -> str:
        if isinstance(lora_request, PlannedRequest):
            label: str = lora_request.plan.label
            return label
        name: str = super().model_name(lora_request)
        return name

    async def show_available_models(self) -> ModelList:
        models = await self.registry.show_available_models()
        base = self.base_model_paths[0].name
        for card in models.data:
            card.root = card.id
        models.data.extend(
            ModelCard(
                id=model.id, created=int(model.created), root=model.root, parent=base, permission=[ModelPermission()]
            )
            for model in self._catalog.models()
        )
        return models
