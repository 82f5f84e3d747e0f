"""Every operation of a server, as calls that name somebody's things: HTTP by OpenAPI, gRPC by reflection."""

import re
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import grpc
import httpx
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

_TIMEOUT_S = 20.0
# An input of KServe's protocol, as JSON has it.
_TEXT = {"name": "text_input", "datatype": "BYTES", "shape": ["1"], "contents": {"bytesContents": ["aGVsbG8="]}}
_METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Names:
    """What a tenant has, by name."""

    adapter: str
    composition: str
    tenant: str
    key: str
    merge: str
    run: str
    response: str
    user: str

    @property
    def all(self) -> tuple[str, ...]:
        return astuple(self)

    def path(self, path: str) -> str:
        """With these names in its braces."""
        of_id = self.merge if "/merges/" in path else self.run
        of_name = self.composition if "/compositions/" in path else self.adapter
        values = {"name": of_name, "version": "v1", "alias": "production", "key": self.key, "tenant": self.tenant}
        values |= {"id": of_id, "user": self.user}
        return re.sub(r"{(\w+)}", lambda found: values.get(found[1], self.adapter), path)

    def fields(self, operation: str) -> dict[str, Any]:
        """Values for the fields that bodies and messages have."""
        said = [{"role": "user", "content": "hello"}]
        return {
            "model": self.adapter,
            "model_name": self.adapter,
            "name": self.adapter,
            "adapter": self.adapter,
            "lora_name": self.adapter,
            "lora_path": "x",
            "expression": f"{self.adapter}*0.5",
            "version": "v1",
            "alias": "canary",
            "tenant": self.tenant,
            "role": "user",
            "id": self.merge if "erges" in operation else "",
            "response": self.response,
            "thumb": "up",
            "user": self.user,
            "mode": "off",
            "weight": 1,
            "source": f"memory://{self.adapter}",
            "dry_run": True,
            "prompt": "" if operation.endswith("/responses") else "hello",
            "messages": [said] if operation.endswith("/batch") else said,
            "input": "hello",
            "max_tokens": 1,
            "tokens": [1],
            "inputs": [_TEXT],
        }


def http_calls(url: str, key: str) -> Iterator[tuple[str, Callable[[Names, str | None], tuple[str, str]]]]:
    """Every operation of the server's document."""
    headers = {"authorization": f"Bearer {key}"}
    document = httpx.get(f"{url}/openapi.json", headers=headers, timeout=60).raise_for_status().json()
    for path, operations in sorted(document["paths"].items()):
        for method in (one for one in _METHODS if one in operations):
            known = _properties(document, operations[method])
            operation = f"{method.upper()} {path}"
            yield operation, partial(_ask, url, operation, known)


def _ask(url: str, operation: str, known: set[str], names: Names, key: str | None) -> tuple[str, str]:
    method, path = operation.split()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {field: value for field, value in names.fields(path).items() if field in known and value != ""}
    query = {"tenant": names.tenant} if path == "/v1/keys" and method == "GET" else None
    sent = body if method in ("POST", "PUT", "PATCH") else None
    answer = httpx.request(method, url + names.path(path), headers=headers, json=sent, params=query, timeout=_TIMEOUT_S)
    return str(answer.status_code), answer.text


def _properties(document: dict[str, Any], operation: dict[str, Any]) -> set[str]:
    """The fields of an operation's body, in whichever of its forms."""
    contents = operation.get("requestBody", {}).get("content", {})
    found: set[str] = set()
    waiting = [content.get("schema", {}) for content in contents.values()]
    while waiting:
        schema = waiting.pop()
        if "$ref" in schema:
            waiting.append(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        waiting += [one for kind in ("anyOf", "oneOf", "allOf") for one in schema.get(kind, ())]
        found |= schema.get("properties", {}).keys()
    return found


def rpc_calls(channel: grpc.Channel) -> Iterator[tuple[str, Callable[[Names, str | None], tuple[str, str]]]]:
    """Every method of every service that reflection tells of."""
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    for service in sorted(database.get_services()):
        for method in pool.FindServiceByName(service).methods:
            yield f"{service}/{method.name}", partial(_call, channel, method)


def _call(channel: grpc.Channel, method: MethodDescriptor, names: Names, key: str | None) -> tuple[str, str]:
    service = method.containing_service.full_name
    kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    call = getattr(channel, "_".join(kind))(
        f"/{service}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    request = _message(method.input_type, names.fields(service))
    metadata = [("authorization", f"Bearer {key}")] if key else []
    try:
        sent = iter([request]) if method.client_streaming else request
        answer = call(sent, metadata=metadata, timeout=_TIMEOUT_S)
        said = next(iter(answer), None) if method.server_streaming else answer
        if method.server_streaming:
            answer.cancel()
    except grpc.RpcError as raised:
        error: Any = raised
        return error.code().name, str(error.details())
    return "OK", str(said)


def _message(kind: Descriptor, values: dict[str, Any]) -> Any:
    """A message with these values in the fields of these names, nested ones too; of a oneof the first that has one."""
    message: Any = GetMessageClass(kind)()
    taken: set[str] = set()
    for field in kind.fields:
        group = field.containing_oneof.name if field.containing_oneof else field.name
        if group in taken:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated:
            getattr(message, field.name).CopyFrom(_message(field.message_type, values))
            taken.add(group)
        elif field.type == FieldDescriptor.TYPE_MESSAGE and field.name in values:
            ParseDict({field.name: values[field.name]}, message)
        elif field.type == FieldDescriptor.TYPE_ENUM:
            setattr(message, field.name, 1)
        elif field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated and values.get(field.name):
            setattr(message, field.name, str(values[field.name]))
            taken.add(group)
    return message
