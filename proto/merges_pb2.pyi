from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubmitMergeRequest(_message.Message):
    __slots__ = ("expression", "save_name", "save_alias")
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    SAVE_NAME_FIELD_NUMBER: _ClassVar[int]
    SAVE_ALIAS_FIELD_NUMBER: _ClassVar[int]
    expression: str
    save_name: str
    save_alias: str
    def __init__(self, expression: _Optional[str] = ..., save_name: _Optional[str] = ..., save_alias: _Optional[str] = ...) -> None: ...

class GetMergeRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListMergesRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListMergesResponse(_message.Message):
    __slots__ = ("merges",)
    MERGES_FIELD_NUMBER: _ClassVar[int]
    merges: _containers.RepeatedCompositeFieldContainer[Merge]
    def __init__(self, merges: _Optional[_Iterable[_Union[Merge, _Mapping]]] = ...) -> None: ...

class Merge(_message.Message):
    __slots__ = ("id", "expression", "state", "done", "of", "created", "digest", "size", "rank", "relative_error", "report", "version", "error")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Merge.State]
        QUEUED: _ClassVar[Merge.State]
        RUNNING: _ClassVar[Merge.State]
        DONE: _ClassVar[Merge.State]
        FAILED: _ClassVar[Merge.State]
    STATE_UNSPECIFIED: Merge.State
    QUEUED: Merge.State
    RUNNING: Merge.State
    DONE: Merge.State
    FAILED: Merge.State
    ID_FIELD_NUMBER: _ClassVar[int]
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    expression: str
    state: Merge.State
    done: int
    of: int
    created: float
    digest: str
    size: int
    rank: int
    relative_error: float
    report: str
    version: str
    error: str
    def __init__(self, id: _Optional[str] = ..., expression: _Optional[str] = ..., state: _Optional[_Union[Merge.State, str]] = ..., done: _Optional[int] = ..., of: _Optional[int] = ..., created: _Optional[float] = ..., digest: _Optional[str] = ..., size: _Optional[int] = ..., rank: _Optional[int] = ..., relative_error: _Optional[float] = ..., report: _Optional[str] = ..., version: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...
