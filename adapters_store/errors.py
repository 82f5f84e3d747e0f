"""Everything that polyad raises on purpose, and how HTTP and gRPC say it.

PolyadError                    500 INTERNAL
├── InvalidInput               400 INVALID_ARGUMENT
│   ├── InvalidName            400 INVALID_ARGUMENT
│   ├── InvalidAdapter         400 INVALID_ARGUMENT
│   ├── InvalidSource          400 INVALID_ARGUMENT
│   ├── Unsupported            400 INVALID_ARGUMENT
│   └── TooLarge               413 INVALID_ARGUMENT
├── Unauthenticated            401 UNAUTHENTICATED
├── Forbidden                  403 PERMISSION_DENIED
├── NotFound                   404 NOT_FOUND
│   ├── UnknownModel           404 NOT_FOUND
│   ├── UnknownAdapter         404 NOT_FOUND
│   ├── UnknownVersion         404 NOT_FOUND
│   ├── UnknownAlias           404 NOT_FOUND
│   ├── UnknownComposition     404 NOT_FOUND
│   ├── UnknownKey             404 NOT_FOUND
│   ├── UnknownTenant          404 NOT_FOUND
│   ├── UnknownMerge           404 NOT_FOUND
│   ├── UnknownSource          404 NOT_FOUND
│   ├── UnknownResponse        404 NOT_FOUND
│   ├── UnknownRun             404 NOT_FOUND
│   └── ResponseExpired        410 NOT_FOUND
├── Conflict                   409 FAILED_PRECONDITION
│   ├── AliasMoved             409 ABORTED
│   ├── CompositionChanged     409 ABORTED
│   ├── VersionInUse           409 FAILED_PRECONDITION
│   └── WrongBase              409 FAILED_PRECONDITION
├── LimitReached               429 RESOURCE_EXHAUSTED
├── Unavailable                503 UNAVAILABLE
│   ├── RegistryUnavailable    503 UNAVAILABLE
│   ├── BlobsUnavailable       503 UNAVAILABLE
│   ├── SourceUnavailable      503 UNAVAILABLE
│   ├── EngineUnavailable      503 UNAVAILABLE
│   └── MergePending           503 UNAVAILABLE
├── MergeFailed                409 FAILED_PRECONDITION
├── CorruptBlob                500 DATA_LOSS
├── LoadFailed                 500 INTERNAL
└── ConfigError                500 INTERNAL   (at start, before anything is served)
"""

from datetime import UTC, datetime
from typing import ClassVar

_SHOWN = 200


def shown(value: object) -> str:
    """A value as error messages quote it: its repr, cut to a bounded length."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class PolyadError(Exception):
    """Base of the tree. `field` names the input at fault, where there is one."""

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    field: str | None = None


class InvalidInput(PolyadError):
    """An input from outside is not what is allowed: says which field, what came, where (`at`), and what may come."""

    http_status = 400
    grpc_status = "INVALID_ARGUMENT"

    def __init__(self, field: str, value: object, allowed: str, at: str = "") -> None:
        super().__init__(f"{field}: got {' '.join(filter(None, (shown(value), at)))}, allowed: {allowed}")
        self.field = field


class InvalidName(InvalidInput):
    """A name breaks the rule for names."""


class InvalidAdapter(InvalidInput):
    """The bytes of an adapter were refused at admission; no version came into being."""


class InvalidSource(InvalidInput):
    """A source to push from is malformed or not allowed by the configuration."""


class Unsupported(InvalidInput):
    """A composition is well-formed, but of a kind that is not served yet."""


class TooLarge(InvalidInput):
    """An input is over its size limit."""

    http_status = 413


class Unauthenticated(PolyadError):
    """No valid key came with the request."""

    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class Forbidden(PolyadError):
    """The key is valid, but its role may not do this."""

    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class NotFound(PolyadError):
    """What the request names does not exist, or not for this tenant."""

    http_status = 404
    grpc_status = "NOT_FOUND"

    def __init__(self, field: str, value: object, message: str) -> None:
        super().__init__(f"{field}: {shown(value)} {message}")
        self.field = field


class UnknownModel(NotFound):
    """The `model` of a request is neither the base model nor an adapter."""


class UnknownAdapter(NotFound):
    """No adapter has this name."""


class UnknownVersion(NotFound):
    """The adapter has no such version."""


class UnknownAlias(NotFound):
    """The adapter has no such alias."""


class UnknownComposition(NotFound):
    """No saved composition has this name."""


class UnknownKey(NotFound):
    """No API key has this name."""


class UnknownTenant(NotFound):
    """No tenant has this name, or it is not the caller's to look at."""


class UnknownMerge(NotFound):
    """No merge has this id, or its result was evicted."""


class UnknownSource(NotFound):
    """The source to push from does not exist."""


class UnknownResponse(NotFound):
    """No response with this id is kept for feedback, or not for this tenant."""


class ResponseExpired(NotFound):
    """The response was kept for feedback, for a time that is over, or until its user asked for deletion."""

    http_status = 410

    def __init__(self, field: str, value: object, expired: float) -> None:
        at = datetime.fromtimestamp(expired, UTC).isoformat(timespec="seconds")
        super().__init__(field, value, f"can take no feedback any more; it was kept until {at} at most")


class UnknownRun(NotFound):
    """No run has this id."""


class Conflict(PolyadError):
    """The request is valid, but not in the present state."""

    http_status = 409
    grpc_status = "FAILED_PRECONDITION"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class AliasMoved(Conflict):
    """A compare-and-set found another version than the caller expected."""

    grpc_status = "ABORTED"


class CompositionChanged(Conflict):
    """A compare-and-set found another expression than the caller expected."""

    grpc_status = "ABORTED"


class VersionInUse(Conflict):
    """An alias or a pin still needs the version."""


class WrongBase(Conflict):
    """The version was made for another base model than the one served here."""


class LimitReached(PolyadError):
    """A limit of the tenant would be passed; `retry_after_s` says when to ask again."""

    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"

    def __init__(self, field: str, value: object, allowed: str, retry_after_s: int) -> None:
        super().__init__(f"{field}: got {shown(value)}, allowed: {allowed}")
        self.field = field
        self.retry_after_s = retry_after_s


class Unavailable(PolyadError):
    """A part that the request needs is away; trying again later may work."""

    http_status = 503
    grpc_status = "UNAVAILABLE"


class RegistryUnavailable(Unavailable):
    """Redis does not answer: nothing can be written; serving goes on from the snapshot."""


class BlobsUnavailable(Unavailable):
    """The blob store does not answer."""


class SourceUnavailable(Unavailable):
    """A source to push from does not answer."""


class EngineUnavailable(Unavailable):
    """The engine is starting, restarting, or was lost while the request ran."""


class MergePending(Unavailable):
    """A merge is being computed; the message names its job."""


class MergeFailed(PolyadError):
    """A merge could not be computed; it is not tried again for a while."""

    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class CorruptBlob(PolyadError):
    """Stored bytes do not have the digest that they are stored under."""

    grpc_status = "DATA_LOSS"


class LoadFailed(PolyadError):
    """The engine could not load a version that admission had accepted."""


class ConfigError(PolyadError):
    """The configuration is invalid; the server does not start."""
