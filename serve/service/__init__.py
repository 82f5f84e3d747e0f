"""What the server does, without a protocol: HTTP and gRPC are thin faces of these objects."""

from polyad.serve.service.access import Access, Caller, Role, current_caller
from polyad.serve.service.adapters import AdapterService, Pushed
from polyad.serve.service.collection import Collected, Collector
from polyad.serve.service.compositions import CompositionService
from polyad.serve.service.fleet import Fleet
from polyad.serve.service.health import Health
from polyad.serve.service.learning import LearningService
from polyad.serve.service.limiter import Limiter
from polyad.serve.service.merge_job import Job, Saved
from polyad.serve.service.merge_process import MergeProcess
from polyad.serve.service.merge_results import MergeResults
from polyad.serve.service.merges import MergeLimits, MergeService
from polyad.serve.service.services import Services
from polyad.serve.service.stored_bytes import check_sole_owner
from polyad.serve.service.tenants import TenantService
from polyad.serve.service.warming import Warming

__all__ = [
    "Access",
    "AdapterService",
    "Caller",
    "Collected",
    "Collector",
    "CompositionService",
    "Fleet",
    "Health",
    "Job",
    "LearningService",
    "Limiter",
    "MergeLimits",
    "MergeProcess",
    "MergeResults",
    "MergeService",
    "Pushed",
    "Role",
    "Saved",
    "Services",
    "TenantService",
    "Warming",
    "check_sole_owner",
    "current_caller",
]
