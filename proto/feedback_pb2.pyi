from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Thumb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    THUMB_UNSPECIFIED: _ClassVar[Thumb]
    UP: _ClassVar[Thumb]
    DOWN: _ClassVar[Thumb]
THUMB_UNSPECIFIED: Thumb
UP: Thumb
DOWN: Thumb

class GiveFeedbackRequest(_message.Message):
    __slots__ = ("response", "id", "thumb", "score", "correction", "preferred", "comment", "labels", "answer", "user")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    THUMB_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    response: str
    id: str
    thumb: Thumb
    score: int
    correction: str
    preferred: int
    comment: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    answer: int
    user: str
    def __init__(self, response: _Optional[str] = ..., id: _Optional[str] = ..., thumb: _Optional[_Union[Thumb, str]] = ..., score: _Optional[int] = ..., correction: _Optional[str] = ..., preferred: _Optional[int] = ..., comment: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., answer: _Optional[int] = ..., user: _Optional[str] = ...) -> None: ...

class GiveFeedbackResponse(_message.Message):
    __slots__ = ("id", "response", "version", "given_before")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GIVEN_BEFORE_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: str
    version: str
    given_before: bool
    def __init__(self, id: _Optional[str] = ..., response: _Optional[str] = ..., version: _Optional[str] = ..., given_before: _Optional[bool] = ...) -> None: ...

class ForgetUserRequest(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: str
    def __init__(self, user: _Optional[str] = ...) -> None: ...

class ForgetUserResponse(_message.Message):
    __slots__ = ("interactions", "events", "examples")
    INTERACTIONS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    interactions: int
    events: int
    examples: int
    def __init__(self, interactions: _Optional[int] = ..., events: _Optional[int] = ..., examples: _Optional[int] = ...) -> None: ...
