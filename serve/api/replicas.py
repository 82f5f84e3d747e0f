"""/v1/replicas: the servers on this registry, for those who run them."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from polyad.adapters_store.registry import Sighting
from polyad.serve.api.access import Operator
from polyad.serve.api.errors import documented_errors
from polyad.serve.api.route import Route
from polyad.serve.service import Fleet


class HeldOut(BaseModel):
    """A version in a server's memory: `loading`, or in `host` memory, from where a slot takes it in one copy."""

    tenant: str
    adapter: str
    version: str
    tier: str
    requests: int


class ReplicaOut(BaseModel):
    """One server. `revision` is how far it has followed the registry, `age_s` how long ago it was heard of."""

    id: str
    name: str
    release: str
    base_fingerprint: str
    revision: int
    status: str
    age_s: float
    held: list[HeldOut]

    @classmethod
    def of(cls, sighting: Sighting) -> "ReplicaOut":
        replica = sighting.replica
        held = [
            HeldOut(
                tenant=one.tenant,
                adapter=one.adapter,
                version=f"v{one.number}",
                tier=one.tier,
                requests=one.requests,
            )
            for one in replica.held
        ]
        kept = replica.model_dump(include={"id", "name", "release", "revision", "status"})
        return cls(**kept, base_fingerprint=replica.base, age_s=sighting.age_s, held=held)


class ReplicaList(BaseModel):
    """All servers that were heard of lately; `revision` is that of the server which answers."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "list",
                "revision": 42,
                "data": [
                    {
                        "id": "9f86d081884c7d65",
                        "name": "polyad-0",
                        "release": "0.1.0",
                        "base_fingerprint": "0f3a" * 16,
                        "revision": 42,
                        "status": "ready",
                        "age_s": 0.8,
                        "held": [
                            {"tenant": "public", "adapter": "support", "version": "v2", "tier": "host", "requests": 3}
                        ],
                    }
                ],
            }
        }
    )

    object: Literal["list"] = "list"
    revision: int
    data: list[ReplicaOut]


def replicas_router(fleet: Fleet) -> APIRouter:
    """The route over the fleet."""
    router = APIRouter(tags=["operations"], route_class=Route)

    @router.get(
        "/v1/replicas",
        summary="List the servers on this registry, and what they hold",
        responses=documented_errors(400, 401, 403, 413, 503),
        dependencies=[Operator],
    )
    async def replicas() -> ReplicaList:
        return ReplicaList(revision=fleet.revision, data=[ReplicaOut.of(one) for one in await fleet.living()])

    return router
