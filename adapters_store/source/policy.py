"""What may be fetched on behalf of a client, and how much of it."""

from dataclasses import dataclass, field

from polyad.adapters_store.errors import ConfigError, InvalidSource
from polyad.adapters_store.source.plain_url import PlainUrl


@dataclass(frozen=True, kw_only=True)
class SourcePolicy:
    """`allowed_urls` are prefixes of fsspec URLs; a source lies under one of them, whole path segments compared.

    Raises ConfigError for a prefix that is no plain URL. `hub_endpoint` None means the client's own default;
    `hub_token` None asks the Hub as nobody.
    """

    max_bytes: int
    max_config_bytes: int = 2**20
    allowed_urls: tuple[str, ...] = ()
    hub: bool = True
    hub_endpoint: str | None = None
    hub_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            for prefix in self.allowed_urls:
                PlainUrl.parse("allowed_urls", prefix)
        except InvalidSource as error:
            raise ConfigError(str(error)) from error

    def allowing(self, url: PlainUrl) -> PlainUrl | None:
        """The prefix that `url` lies under, if any."""
        prefixes = (PlainUrl.parse("allowed_urls", prefix) for prefix in self.allowed_urls)
        return next((prefix for prefix in prefixes if url.is_under(prefix)), None)
