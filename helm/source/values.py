"""Every value of the chart, declared once: values.yaml, values.schema.json and the README's table come from here."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

sys.path.insert(0, str(Path(__file__).parent))

from server_settings import settings_model

KINDS = tuple(yaml.safe_load((Path(__file__).parent.parent / "files/gpu-kinds.yaml").read_text()))

# Rules of Kubernetes for what it calls DNS labels, quantities and percentages.
DnsName = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
CountOrShare = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^[0-9]{1,3}%$")]
Object = dict[str, Any]


class Values(BaseModel):
    """A part of the values: what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Resources(Values):
    requests: dict[str, Quantity | int] = {}
    """Requests; empty: by `gpu.kind`, or none."""
    limits: dict[str, Quantity | int] = {}
    """Limits beside the GPUs, which the chart adds."""


class Toleration(Values):
    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    tolerationSeconds: int | None = None


class Image(Values):
    repository: str = "polyad"
    """Image that helm/Dockerfile builds; its target is `gpu` or `cpu`."""
    tag: str = ""
    """Empty: the chart's appVersion, with `-gpu` or `-cpu`."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Wins over the tag."""
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes fetch the image."""
    pullSecrets: list[DnsName] = []
    """Names of Secrets with registry credentials."""


class SecretKey(Values):
    name: DnsName = ""
    """Name of a Secret in the release's namespace."""
    key: str
    """Key in it."""


class UrlKey(SecretKey):
    key: str = "url"
    """Key in it."""


class TokenKey(SecretKey):
    key: str = "token"
    """Key in it."""


class Model(Values):
    name: str = ""
    """Base model: a name on the Hugging Face hub, or a folder under /models. Required."""
    options: list[str] = []
    """vLLM's options, one a line: --max-model-len=8192."""
    claim: DnsName = ""
    """PersistentVolumeClaim with models, mounted read-only at /models."""
    hubToken: TokenKey = TokenKey()
    """Secret with a token of the hub."""


class Gpu(Values):
    kind: Literal[("", *KINDS)] = ""  # type: ignore[valid-type]
    """Named preset: node affinity, CPU, memory and shared memory (files/gpu-kinds.yaml)."""
    count: Annotated[int, Field(ge=1, le=16)] = 1
    """GPUs of one server; more than one is tensor parallelism."""
    resource: str = "nvidia.com/gpu"
    """Name of the resource."""
    runtimeClass: DnsName = ""
    """RuntimeClass of pods with GPUs."""


class Rollout(Values):
    maxSurge: CountOrShare = 1
    """Servers above the number, while a Deployment is rolled."""
    maxUnavailable: CountOrShare = 0
    """Servers that may be away while they are rolled."""


class Spread(Values):
    enabled: bool = True
    """Spread servers over zones and nodes, where that is possible."""
    keys: list[str] = ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    """Topology keys."""


class State(Values):
    size: Quantity = "50Gi"
    """Bound of the folder with caches: an emptyDir in a Deployment, a claim in a StatefulSet."""
    storageClass: str = ""
    """Storage class of a StatefulSet's claims."""


class Server(Values):
    kind: Literal["Deployment", "StatefulSet"] = "Deployment"
    """A StatefulSet keeps each server's caches over restarts."""
    replicas: Annotated[int, Field(ge=0)] = 2
    """Servers, where nothing scales them."""
    resources: Resources = Resources()
    """Resources of one server."""
    state: State = State()
    """The folder /var/lib/polyad."""
    sharedMemory: Quantity = "2Gi"
    """Size of /dev/shm, where `gpu.kind` says nothing."""
    startupSeconds: Annotated[int, Field(ge=30)] = 1800
    """How long a server may take to load model and pinned adapters before it is killed."""
    preStopSeconds: Annotated[int, Field(ge=0)] = 10
    """Pause before shutdown, in which load balancers learn that the pod is leaving."""
    rollout: Rollout = Rollout()
    """How a Deployment is rolled."""
    priorityClass: DnsName = ""
    """PriorityClass of the pods."""
    nodeSelector: dict[str, str] = {}
    """Labels that nodes must have."""
    tolerations: list[Toleration] = [Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")]
    """Taints that are tolerated."""
    affinity: Object = {}
    """A Kubernetes affinity; wins over that of `gpu.kind`."""
    topologySpread: Spread = Spread()
    """Where servers run."""
    annotations: dict[str, str] = {}
    """Annotations of the pods."""
    labels: dict[str, str] = {}
    """Labels of the pods."""
    environment: dict[str, str] = {}
    """More environment variables, for vLLM and others; no secrets."""


class Keys(Values):
    existingSecret: DnsName = ""
    """Secret with the keys. Required, unless `keys.create`."""
    create: bool = False
    """Let a hook make a Secret with random keys at the first install. It outlives the release, and is never changed."""
    apiKey: str = "api-key"
    """Key of the API key in the Secret."""
    adminKey: str = "admin-key"
    """Key of the admin key in the Secret."""
    metricsKey: str = "metrics-key"
    """Key of the metrics key in the Secret, by which Prometheus reads /metrics. Other uses need none."""


class Trial(Values):
    enabled: bool = False
    """Run one Redis, without replication and password, for trials."""
    image: str = "redis:7.4-alpine"
    """Its image."""
    storage: Quantity = "1Gi"
    """Size of its claim."""
    storageClass: str = ""
    """Storage class of its claim."""


class Redis(Values):
    url: UrlKey = UrlKey()
    """Secret with the URL of the registry (redis://, rediss://, redis+sentinel://, redis+cluster://). Required, unless
    `redis.trial.enabled`."""
    trial: Trial = Trial()
    """A Redis for trials."""


class Claim(Values):
    existing: DnsName = ""
    """PersistentVolumeClaim to use; empty: one is made, and kept when the release goes."""
    size: Quantity = "100Gi"
    """Size of the claim that is made."""
    storageClass: str = ""
    """Its storage class; it must allow the access mode."""
    accessMode: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """ReadWriteOnce is for one node."""


class ObjectStore(Values):
    url: Annotated[str, Field(pattern=r"^([a-z0-9+]+://[^\s]+)?$")] = ""
    """fsspec URL: s3://bucket/prefix."""
    secret: DnsName = ""
    """Secret whose keys become environment variables (AWS_ACCESS_KEY_ID ...). Empty: the service account's identity."""


class Blobs(Values):
    kind: Literal["claim", "objectStore"] = "claim"
    """Where the bytes of adapters lie."""
    claim: Claim = Claim()
    """A shared file system."""
    objectStore: ObjectStore = ObjectStore()
    """An object store."""


class Learn(Values):
    enabled: bool = False
    """Run the worker that trains adapters from feedback (`polyad learn`); one is enough for a fleet."""
    options: list[str] = []
    """Options of `polyad learn`, one a line."""
    gpuCount: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs of the worker, under the profile `gpu`."""
    resources: Resources = Resources()
    """Resources of the worker."""


class Migration(Values):
    enabled: bool = True
    """Bring the registry's schema up in a hook before servers change (`polyad registry migrate`)."""
    deadlineSeconds: Annotated[int, Field(ge=10)] = 300
    """Bound on the hook."""


class GrpcService(Values):
    enabled: bool = False
    """Let clients reach gRPC too."""
    port: Port = 9000
    """Port of the Service."""


class Service(Values):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service."""
    httpPort: Port = 80
    """Port of the Service for HTTP."""
    grpc: GrpcService = GrpcService()
    """gRPC."""
    annotations: dict[str, str] = {}
    """Annotations of the Service."""


class IngressTls(Values):
    secretName: DnsName
    """Secret with certificate and key."""
    hosts: list[str]
    """Hosts that it is for."""


class Ingress(Values):
    enabled: bool = False
    """Make an Ingress for HTTP."""
    className: DnsName = ""
    """Its class."""
    annotations: dict[str, str] = {}
    """Its annotations; adapters are pushed through it, so its body size must allow `settings.max_adapter_bytes`."""
    hosts: list[str] = []
    """Hosts; empty: all."""
    tls: list[IngressTls] = []
    """TLS."""


class ParentRef(Values):
    name: DnsName
    """Name of a Gateway."""
    namespace: DnsName = ""
    """Its namespace."""
    sectionName: DnsName = ""
    """One of its listeners."""


class Gateway(Values):
    enabled: bool = False
    """Make an HTTPRoute, and a GRPCRoute with `service.grpc.enabled`."""
    parents: list[ParentRef] = []
    """Gateways. Required, if enabled."""
    hostnames: list[str] = []
    """Hosts; empty: all."""
    requestTimeout: Annotated[str, Field(pattern=r"^([0-9]{1,5}(h|m|s|ms)){1,4}$")] = "600s"
    """Bound on one request."""


class Picker(Values):
    name: DnsName = ""
    """Service of the endpoint picker, which its own chart installs. Required, if enabled."""
    port: Port = 9002
    """Its port."""
    failureMode: Literal["FailOpen", "FailClose"] = "FailOpen"
    """What the gateway does without it: FailOpen takes any server."""


class Objective(Values):
    name: DnsName
    """Name of the InferenceObjective, which requests give in x-gateway-inference-objective."""
    priority: int
    """Requests of lower priority are shed first."""


class InferencePool(Values):
    enabled: bool = False
    """Make an InferencePool over the servers, and let the HTTPRoute lead to it."""
    picker: Picker = Picker()
    """The endpoint picker."""
    objectives: list[Objective] = []
    """InferenceObjectives of the pool."""


class Keda(Values):
    prometheus: str = ""
    """Address of Prometheus. Required for `keda`."""
    authentication: DnsName = ""
    """TriggerAuthentication, if Prometheus wants one."""


class Autoscaling(Values):
    kind: Literal["none", "hpa", "keda"] = "none"
    """Who scales the servers: a HorizontalPodAutoscaler over custom metrics, or KEDA over Prometheus."""
    minReplicas: Annotated[int, Field(ge=1)] = 2
    """Fewest servers."""
    maxReplicas: Annotated[int, Field(ge=1)] = 10
    """Most servers."""
    waitingRequests: Annotated[int, Field(ge=1)] = 4
    """Requests that may wait per server, for any reason."""
    waitingForSlot: Annotated[int, Field(ge=1)] = 2
    """Requests that may wait per server for an adapter slot."""
    calmSeconds: Annotated[int, Field(ge=0, le=3600)] = 600
    """How long load must be low before a server is taken away."""
    keda: Keda = Keda()
    """For `keda`."""


class Disruption(Values):
    enabled: bool = True
    """Make a PodDisruptionBudget."""
    maxUnavailable: CountOrShare = 1
    """Servers that voluntary disruptions may take away at once."""


class NetworkPolicy(Values):
    enabled: bool = True
    """Let through only what is needed."""
    clients: list[Object] = [{"podSelector": {}}]
    """Peers that may reach the servers; the default is the namespace."""
    monitoring: list[Object] = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    """Peers that may scrape them."""
    dns: list[Object] = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]
    """Peers that answer names."""
    redis: list[Object] = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    """Peers where an external Redis is."""
    redisPorts: list[Port] = [6379]
    """Its ports; a Sentinel adds 26379."""
    https: bool = True
    """Allow port 443 to anywhere: the hub, and object stores."""


class Monitor(Values):
    enabled: bool = False
    """Make a ServiceMonitor."""
    interval: Annotated[str, Field(pattern=r"^[0-9]+(s|m)$")] = "15s"
    """How often servers are scraped."""
    labels: dict[str, str] = {}
    """Labels by which Prometheus finds it."""


class Rules(Values):
    enabled: bool = False
    """Make a PrometheusRule of files/alerts.yaml."""
    labels: dict[str, str] = {}
    """Labels by which Prometheus finds it."""


class Dashboard(Values):
    enabled: bool = False
    """Make a ConfigMap with the Grafana dashboard."""
    labels: dict[str, str] = {"grafana_dashboard": "1"}
    """Labels by which Grafana's sidecar finds it."""


class Account(Values):
    create: bool = True
    """Make a ServiceAccount; its token is mounted nowhere."""
    name: DnsName = ""
    """Its name, if not the release's."""
    annotations: dict[str, str] = {}
    """Annotations: the identity at an object store."""


class Security(Values):
    user: Annotated[int, Field(ge=1)] = 10001
    """User, group and fsGroup of all containers; the image's own."""


class Chart(Values):
    nameOverride: DnsName = ""
    """In place of `polyad` in names."""
    fullnameOverride: DnsName = ""
    """In place of release and chart in names."""
    profile: Literal["gpu", "cpu"] = "gpu"
    """What servers compute on."""
    image: Image = Image()
    """The image."""
    model: Model = Model()
    """The base model."""
    gpu: Gpu = Gpu()
    """GPUs, under the profile `gpu`."""
    server: Server = Server()
    """The servers."""
    settings: settings_model() = settings_model()()  # type: ignore[valid-type]
    """Settings of the server, by their own names. Settings that the chart owns are not among them."""
    keys: Keys = Keys()
    """Keys of the API."""
    redis: Redis = Redis()
    """The registry."""
    blobs: Blobs = Blobs()
    """The bytes of adapters."""
    learn: Learn = Learn()
    """Learning from feedback."""
    migration: Migration = Migration()
    """Migrations."""
    service: Service = Service()
    """The Service."""
    ingress: Ingress = Ingress()
    """Ingress."""
    gateway: Gateway = Gateway()
    """Gateway API."""
    inferencePool: InferencePool = InferencePool()
    """Gateway API inference extension."""
    autoscaling: Autoscaling = Autoscaling()
    """Scaling."""
    podDisruptionBudget: Disruption = Disruption()
    """Voluntary disruptions."""
    networkPolicy: NetworkPolicy = NetworkPolicy()
    """The network."""
    serviceMonitor: Monitor = Monitor()
    """Metrics."""
    prometheusRule: Rules = Rules()
    """Alerts."""
    dashboard: Dashboard = Dashboard()
    """Dashboard."""
    serviceAccount: Account = Account()
    """ServiceAccount."""
    security: Security = Security()
    """Security context."""
