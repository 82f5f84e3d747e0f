"""The language of compositions.

    expression = product (("+" | "-") product)*
    product    = operand ("*" number)*
    operand    = "(" [expression] ")"  |  method "(" arguments ")"  |  name ["@" version]
    arguments  = expression ("," expression)* [";" option "=" value ("," option "=" value)*]

`fuse` is the method that combines outputs; all others, and every product and sum, make one delta.
"""

from typing import TypeAlias

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.names import PRODUCTION, check_model_name, check_reference
from polyad.serve.compose.bounds import MAX_DEPTH, MAX_LENGTH, MAX_OPTIONS, MAX_TERMS
from polyad.serve.compose.expression import FUSE, Delta, Expression, Fusion, Merge, Reference, blend
from polyad.serve.compose.options import Options, Value, options_of
from polyad.serve.compose.scanner import Scanner
from polyad.serve.compose.weights import ONE, ExactSum, exact

_OPERATORS = frozenset("+*();")
_MINUS = (" -", "\t-", "\r-", "\n-")

_OPERAND = "a name such as support or support@v3, a method such as ties(, or ("
_NO_FUSION = "what makes a delta; a fusion combines outputs: it stands alone or within another fusion"

_Sum: TypeAlias = ExactSum[Reference | Merge]


def is_composition(text: str) -> bool:
    """Whether the text is more than a name: it has an operator, a parenthesis or a semicolon."""
    return not _OPERATORS.isdisjoint(text) or any(minus in text for minus in _MINUS)


def parse_reference(text: str, field: str = "model") -> Reference:
    """Read `name`, `name@alias`, `name@version`. Raises InvalidName."""
    name, at, version = text.partition("@")
    return Reference(check_model_name(field, name), check_reference(field, version) if at else PRODUCTION)


def parse(text: str, *, start: int = 0, field: str = "model") -> Expression:
    """Read a composition, from `start` on. Raises InvalidInput, which says where, what came and what may come there."""
    if len(text) - start > MAX_LENGTH:
        raise InvalidInput(field, text, f"at most {MAX_LENGTH} characters")
    if not is_composition(text[start:]):
        return parse_reference(text[start:], field)
    return check_length(_Parser(Scanner(text, start, field), field).whole(), field)


def check_length(expression: Expression, field: str) -> Expression:
    """Raise InvalidInput if the canonical text is too long to be read again."""
    written = str(expression)
    if len(written) > MAX_LENGTH:
        raise InvalidInput(field, written, f"at most {MAX_LENGTH} characters, weights multiplied out")
    return expression


class _Parser:
    """Recursive descent; the depth is bounded, and every step moves on in the text."""

    def __init__(self, scanner: Scanner, field: str) -> None:
        self._scanner = scanner
        self._field = field
        self._depth = 0
        self._terms = 0

    def whole(self) -> Expression:
        expression = self._expression()
        if self._scanner.peek():
            raise self._scanner.refused("+, -, * or the end")
        return expression

    def _expression(self) -> Expression:
        found = self._sum()
        return found if isinstance(found, Fusion) else blend(found, self._field)

    def _sum(self) -> _Sum | Fusion:
        total = self._product()
        while (operator := self._scanner.peek()) in ("+", "-"):
            if isinstance(total, Fusion):
                raise self._scanner.refused(_NO_FUSION)
            self._scanner.take(operator)
            total.add_all(self._delta_product(), ONE if operator == "+" else -ONE)
        return total

    def _delta_product(self) -> _Sum:
        self._scanner.peek()
        start, found = self._scanner.position, self._product()
        if isinstance(found, Fusion):
            raise self._scanner.refused(_NO_FUSION, start)
        return found

    def _product(self) -> _Sum | Fusion:
        found = self._operand()
        while self._scanner.peek() == "*":
            if isinstance(found, Fusion):
                raise self._scanner.refused(_NO_FUSION)
            self._scanner.take("*")
            found.scale(exact(self._scanner.weight()))
        return found

    def _operand(self) -> _Sum | Fusion:
        if self._scanner.peek() == "(":
            return self._parenthesis()
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self._scanner.refused(f"at most {MAX_TERMS} names and methods in all")
        name = self._scanner.model_name(_OPERAND)
        version = self._scanner.version()
        called = version is None and self._scanner.peek() == "("
        found = self._call(name) if called else Reference(name, version or PRODUCTION)
        if isinstance(found, Fusion):
            return found
        single: _Sum = ExactSum()
        single.add(found)
        return single

    def _parenthesis(self) -> _Sum | Fusion:
        self._enter()
        inner = ExactSum() if self._scanner.peek() == ")" else self._sum()
        self._leave("+, -, * or )")
        return inner

    def _call(self, method: str) -> Merge | Fusion:
        self._enter()
        if method == FUSE:
            arguments = [self._expression()]
            while self._scanner.take(","):
                arguments.append(self._expression())
            return Fusion(tuple(arguments), self._rest())
        deltas = [self._delta()]
        while self._scanner.take(","):
            deltas.append(self._delta())
        return Merge(method, tuple(deltas), self._rest())

    def _delta(self) -> Delta:
        self._scanner.peek()
        start, found = self._scanner.position, self._expression()
        if isinstance(found, Fusion):
            raise self._scanner.refused(_NO_FUSION, start)
        return found

    def _rest(self) -> Options:
        options: dict[str, Value] = {}
        behind = "+, -, *, a comma, ; or )"
        if self._scanner.take(";"):
            behind = "a comma or )"
            self._option(options)
            while self._scanner.take(","):
                self._option(options)
        self._leave(behind)
        return options_of(options)

    def _option(self, options: dict[str, Value]) -> None:
        self._scanner.peek()
        start, name = self._scanner.position, self._scanner.name("an option such as density=0.2")
        if name in options:
            raise self._scanner.refused("each option once", start)
        if len(options) == MAX_OPTIONS:
            raise self._scanner.refused(f"at most {MAX_OPTIONS} options", start)
        if not self._scanner.take("="):
            raise self._scanner.refused("= and a value")
        options[name] = self._scanner.value()

    def _enter(self) -> None:
        if self._depth == MAX_DEPTH:
            raise self._scanner.refused(f"at most {MAX_DEPTH} parentheses within each other")
        self._depth += 1
        self._scanner.take("(")

    def _leave(self, allowed: str) -> None:
        if not self._scanner.take(")"):
            raise self._scanner.refused(allowed)
        self._depth -= 1
