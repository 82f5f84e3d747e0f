"""On whose behalf a request is made."""

from starlette.types import Scope

DEFAULT_TENANT = "public"


def tenant_of(scope: Scope) -> str:
    """The tenant of a request."""
    tenant: str = scope.get("polyad.tenant", DEFAULT_TENANT)
    return tenant
