"""The composition root of a worker: from settings to a loop that learns until it is ended."""

import asyncio
from collections.abc import Callable

from transformers.utils import logging as transformers_logging

from polyad.adapters_store.base_model import BaseModel, model_folder
from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.feedback import FeedbackStore, Policies, Runs
from polyad.adapters_store.registry import EmbeddedRedis, Registry, masked
from polyad.serve.config import Settings
from polyad.serve.learn.priority import step_back
from polyad.serve.learn.worker import Worker, Workshop

Report = Callable[[str], None]


async def learn(model: str, settings: Settings, report: Report) -> None:
    """Work for the server with these settings, until cancelled. Raises ConfigError, RegistryUnavailable."""
    step_back()
    # It would stand in the log of a process that tells its progress itself.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    report(f"base model {model}")
    folder = await asyncio.to_thread(model_folder, model)
    base = await asyncio.to_thread(BaseModel.from_folder, folder, model)
    url, namespace = redis_url(settings), settings.registry_namespace
    registry = Registry(url, namespace)
    parts = FeedbackStore(url, namespace), Policies(url, namespace), Runs(url, namespace)
    blobs = BlobStore(settings.blobs_root, settings.state_dir / "learn" / "blob-cache", settings.blob_cache_bytes)
    try:
        await registry.start()
        await blobs.start()
        report(f"base model {model}, registry {masked(url)}")
        await Worker(
            registry,
            blobs,
            *parts,
            Workshop(folder, settings.learn_threads, settings.learn_suites),
            settings.state_dir / "learn",
            base=base.fingerprint,
            lease_s=settings.learn_lease_s,
            poll_s=settings.learn_poll_s,
            report=report,
        ).work()
    finally:
        for part in (*parts, registry):
            await part.close()


def redis_url(settings: Settings) -> str:
    """The server's Redis: the configured one, or the one that is embedded in the server on the same state_dir."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    binary = str(settings.redis_server) if settings.redis_server else None
    return EmbeddedRedis(settings.state_dir / "redis", binary).url
