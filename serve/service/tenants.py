"""Keys, and what tenants may have and use."""

import secrets
from hashlib import sha256

from polyad.adapters_store.errors import Conflict, Forbidden, InvalidInput, UnknownTenant
from polyad.adapters_store.names import PUBLIC, check_name
from polyad.adapters_store.registry import Key, Limits, Registry, RoleName
from polyad.serve.service.access import KEY_PREFIX, Caller

MAX_LABEL = 100
_ID_BYTES = 6
_SECRET_BYTES = 32


class TenantService:
    """Admins manage the keys of their tenant; those of the public tenant manage all tenants, and alone set limits.

    With `locked`, the settings hold an admin's key, so that the registry need not.
    """

    def __init__(self, registry: Registry, *, locked: bool) -> None:
        self._registry = registry
        self._locked = locked

    async def create_key(self, caller: Caller, tenant: str | None, role: RoleName, label: str) -> tuple[Key, str]:
        """A new key and its text, which is kept nowhere. Raises Forbidden, UnknownTenant, Conflict."""
        tenant = self._tenant(caller, tenant)
        if len(label) > MAX_LABEL or not label.isprintable():
            raise InvalidInput("label", label, f"at most {MAX_LABEL} printable characters")
        if not self._has_admin() and (tenant, role) != (PUBLIC, "admin"):
            raise Conflict("role", f"the first key is an admin's of the tenant {PUBLIC}, or nobody could make the next")
        name = secrets.token_hex(_ID_BYTES)
        text = f"{KEY_PREFIX}{name}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = await self._registry.add_key(tenant, name, role, sha256(text.encode()).hexdigest(), label)
        return key, text

    def keys(self, caller: Caller, tenant: str | None, after: str | None, limit: int) -> list[Key]:
        """The keys of a tenant by name, behind the cursor. Raises Forbidden, UnknownTenant."""
        return self._registry.snapshot.keys.page(self._tenant(caller, tenant), after, limit)

    async def revoke_key(self, caller: Caller, name: str) -> None:
        """Refuse a key from now on, on every server. Raises Forbidden, UnknownKey, Conflict."""
        caller.check_admin()
        check_name("key", name)
        # Names of keys are random, so no two tenants have the same one.
        found = next((key for key in self._registry.snapshot.keys if key.name == name), None)
        tenant = found.tenant if found is not None and caller.operator else caller.tenant
        if found is not None and found.tenant == tenant and self._is_last_admin(found):
            raise Conflict("key", f"{name!r} is the last admin's key: without it nobody could make another")
        await self._registry.delete_key(tenant, name)

    def limits(self, caller: Caller, tenant: str) -> Limits:
        """What a tenant may have and use. Raises Forbidden, UnknownTenant."""
        return self._registry.snapshot.limits(self._tenant(caller, tenant))

    def usage(self, tenant: str) -> tuple[int, int]:
        """How many adapters a tenant has, and their bytes. The caller was let look at its limits before."""
        return self._registry.snapshot.usage(tenant)

    async def set_limits(self, caller: Caller, tenant: str, limits: Limits) -> Limits:
        """Replace what a tenant may have and use. Raises Forbidden, UnknownTenant."""
        tenant = self._tenant(caller, tenant)
        if not caller.operator:
            raise Forbidden(f"authorization: limits are set by admins of the tenant {PUBLIC}")
        await self._registry.set_limits(tenant, limits)
        return limits

    def _tenant(self, caller: Caller, tenant: str | None) -> str:
        caller.check_admin()
        if tenant is None or check_name("tenant", tenant) == caller.tenant:
            return caller.tenant
        if not caller.operator:
            raise UnknownTenant("tenant", tenant, "does not exist")
        return tenant

    def _has_admin(self) -> bool:
        return self._locked or any(self._admins())

    def _is_last_admin(self, key: Key) -> bool:
        return not self._locked and self._admins() == [key]

    def _admins(self) -> list[Key]:
        return [key for key in self._registry.snapshot.keys if (key.tenant, key.role) == (PUBLIC, "admin")]
