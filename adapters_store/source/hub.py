"""Adapters from the Hugging Face Hub: hf://org/repo, or hf://org/repo@revision."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polyad.adapters_store.errors import InvalidSource, PolyadError, SourceUnavailable, TooLarge, UnknownSource
from polyad.adapters_store.source.adapter_files import (
    CONFIG_FILE,
    INITIAL_FILE,
    PICKLE_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
)
from polyad.adapters_store.source.policy import SourcePolicy

SCHEME = "hf://"

_TIMEOUT_SECONDS = 30.0
# None would mean HF_TOKEN or the cached login: the operator's own, for whatever repository a client names.
_ANONYMOUS = False
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_SOURCE = re.compile(
    rf"hf://(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?", re.ASCII
)


def fetch_from_hub(source: str, into: Path, policy: SourcePolicy) -> AdapterFiles:
    """Blocks. Only the files of the adapter are downloaded, from the commit that the revision names now."""
    match = _SOURCE.fullmatch(source)
    if match is None or ".." in source or "--" in match["repo"]:
        raise InvalidSource("source", source, "hf://organisation/repository or hf://organisation/repository@revision")
    if not policy.hub:
        raise InvalidSource("source", source, "other sources; the Hub is switched off by the configuration")
    repo, revision = match["repo"], match["revision"] or "main"
    with _answers(source):
        commit, sizes = _look_up(repo, revision, policy)
    _check_files(source, sizes, policy)
    with _answers(source):
        config = _download(repo, commit, CONFIG_FILE, into, policy)
        weights = _download(repo, commit, WEIGHTS_FILE, into, policy)
        initial = _download(repo, commit, INITIAL_FILE, into, policy) if INITIAL_FILE in sizes else None
    # the sizes announced were only announced
    here = {CONFIG_FILE: config, WEIGHTS_FILE: weights, **({INITIAL_FILE: initial} if initial else {})}
    _check_files(source, {name: path.stat().st_size for name, path in here.items()}, policy)
    return AdapterFiles(config.read_bytes(), weights, f"{SCHEME}{repo}@{commit}", initial)


def _look_up(repo: str, revision: str, policy: SourcePolicy) -> tuple[str, dict[str, int | None]]:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=policy.hub_endpoint, token=policy.hub_token or _ANONYMOUS)
    info = api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS)
    if info.sha is None:
        raise SourceUnavailable(f"source: the Hub names no commit for {repo}@{revision}")
    return info.sha, {file.rfilename: file.size for file in info.siblings or []}


def _check_files(source: str, sizes: dict[str, int | None], policy: SourcePolicy) -> None:
    if WEIGHTS_FILE not in sizes and PICKLE_FILE in sizes:
        raise InvalidSource(
            "source", source, f"a repository with {WEIGHTS_FILE}; {PICKLE_FILE} is a pickle and is never read"
        )
    limits = {CONFIG_FILE: policy.max_config_bytes, WEIGHTS_FILE: policy.max_bytes, INITIAL_FILE: policy.max_bytes}
    for name, limit in limits.items():
        if name not in sizes and name != INITIAL_FILE:
            raise UnknownSource("source", source, f"has no {name}")
        size = sizes.get(name)
        if size is not None and size > limit:
            raise TooLarge(f"source: {name}", size, f"at most {limit} bytes")


def _download(repo: str, commit: str, name: str, into: Path, policy: SourcePolicy) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            repo,
            name,
            revision=commit,
            local_dir=into,
            endpoint=policy.hub_endpoint,
            token=policy.hub_token or _ANONYMOUS,
            etag_timeout=_TIMEOUT_SECONDS,
        )
    )


@contextmanager
def _answers(source: str) -> Iterator[None]:
    from huggingface_hub.errors import (
        DisabledRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except PolyadError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError, DisabledRepoError) as error:
        raise UnknownSource(
            "source", source, f"is not there, or not for this server ({type(error).__name__})"
        ) from error
    except Exception as error:
        # the client raises errors of several HTTP libraries, and its own for offline mode
        raise SourceUnavailable(f"source: the Hub did not answer for {source}: {type(error).__name__}") from error
