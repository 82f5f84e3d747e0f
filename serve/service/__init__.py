"""What the server does, without a protocol: HTTP and gRPC are thin faces of these objects."""

from polyad.serve.service.adapters import AdapterService, Pushed
from polyad.serve.service.collection import Collected, Collector
from polyad.serve.service.compositions import CompositionService
from polyad.serve.service.health import Health
from polyad.serve.service.learning import LearningService

__all__ = ["AdapterService", "Collected", "Collector", "CompositionService", "Health", "LearningService", "Pushed"]
