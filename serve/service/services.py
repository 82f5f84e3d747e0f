"""All that the faces of the server are faces of."""

from dataclasses import dataclass

from polyad.serve.service.access import Access
from polyad.serve.service.adapters import AdapterService
from polyad.serve.service.collection import Collector
from polyad.serve.service.compositions import CompositionService
from polyad.serve.service.fleet import Fleet
from polyad.serve.service.health import Health
from polyad.serve.service.learning import LearningService
from polyad.serve.service.limiter import Limiter
from polyad.serve.service.merges import MergeService
from polyad.serve.service.tenants import TenantService


@dataclass(frozen=True, slots=True)
class Services:
    """One server's services; those that are of a tenant have `of(tenant)`."""

    adapters: AdapterService
    compositions: CompositionService
    merges: MergeService
    collector: Collector
    health: Health
    access: Access
    tenants: TenantService
    limiter: Limiter
    fleet: Fleet
    learning: LearningService
