"""What every handler with typed operations has to do: the class that its author subclasses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from handler_host.plugin.errors import InvalidInput, UnknownOperation
from handler_host.testing.conformance import Conformance, assert_refused

ANYTHING: Any = object()
"""An answer that is not compared."""
_CANDIDATES: Sequence[tuple[str, Any]] = (("string", "no"), ("integer", 7), ("array", []), ("object", {}))


@dataclass(frozen=True)
class Example:
    """A request that an operation takes, and its answer (of a stream: the list of its pieces)."""

    request: Any
    response: Any = ANYTHING


class OperationsConformanceV1(Conformance):
    """Subclass it, name the handler and examples, and pytest runs these tests against it in a real worker process.

    A later version of the class has further demands; this one keeps its own.
    """

    examples: ClassVar[Mapping[str, Sequence[Example]]]
    """For each operation at least one, but for those that are ``slow``."""
    slow: ClassVar[Mapping[str, Any]] = {}
    """Requests that take seconds, by operation: a client that leaves in the middle of one is tried with them."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each example, and of each slow request (pytest's hook)."""
        if "example" in metafunc.fixturenames:
            pairs = [(operation, example) for operation, found in self.examples.items() for example in found]
            names = [
                f"{operation}-{number}" for operation, found in self.examples.items() for number in range(len(found))
            ]
            metafunc.parametrize(("operation", "example"), pairs, ids=names)
        elif "operation" in metafunc.fixturenames:
            metafunc.parametrize("operation", self.slow)

    def test_an_example_is_answered(self, operation: str, example: Example) -> None:
        """As it is written down, whole and streamed."""
        response = self.worker.ask(operation, example.request)
        chunks = list(self.worker.stream(operation, example.request))
        assert chunks, "an answer has at least one piece"
        if example.response is not ANYTHING:
            assert response == example.response
            assert chunks in ([response], response)

    def test_every_operation_has_an_example(self) -> None:
        """So that none goes untested."""
        assert {report.name for report in self.worker.status.operations or ()} == {*self.examples, *self.slow}

    def test_a_field_of_a_wrong_type_is_a_400_with_its_path(self) -> None:
        """Made of each example by its operation's schema, one field at a time; deeper ones too."""
        for operation, found in self.examples.items():
            for path, request in self._spoilt(operation, found[0].request):
                error = self.worker.error_of(operation, request)
                assert isinstance(error, InvalidInput), f"{operation} with a wrong {path or 'request'}: {error!r}"
                assert (error.param or "") == path, f"{operation} with a wrong {path}: {error}"

    def test_what_is_no_json_document_of_the_right_kind_is_a_400(self) -> None:
        """A list, a text, a number, nothing, where an object is expected."""
        for operation, found in self.examples.items():
            if isinstance(found[0].request, dict):
                wrong: Sequence[object] = ([], "text", 7, None)
                for request in wrong:
                    error = self.worker.error_of(operation, request)
                    assert isinstance(error, InvalidInput), f"{operation} with {request!r}: {error!r}"

    def test_an_unknown_field_is_refused_where_the_schema_says_so(self) -> None:
        """With its name; an open schema takes it."""
        for operation, found in self.examples.items():
            schema = self._schema(operation)
            if schema.get("additionalProperties") is False:
                error = self.worker.error_of(operation, {**found[0].request, "no_such_field": 1})
                assert_refused(error, "no_such_field")

    def test_an_unknown_operation_is_a_404_that_names_those_there_are(self) -> None:
        """Before anything was sent to the worker."""
        error = self.worker.error_of("no.such.operation", {})
        assert isinstance(error, UnknownOperation), error
        assert all(operation in error.message for operation in self.examples)

    def test_the_same_example_many_times_at_once(self) -> None:
        """None waits for ever, and none is mixed up with another one."""
        running = [
            (example, self.worker.begin(operation, example.request))
            for operation, found in self.examples.items()
            for example in [*found] * 8
        ]
        for example, future in running:
            response = future.result(60)
            assert example.response is ANYTHING or response == example.response

    def test_a_client_that_leaves_frees_its_place(self, operation: str) -> None:
        """In the middle of a slow request; the next one is answered."""
        asking = self.worker.begin(operation, self.slow[operation])
        self.worker.until(lambda status: status.in_flight == 1 or asking.done())
        assert not asking.done(), "the request was not slow"
        asking.cancel()
        self.worker.until(lambda status: status.in_flight == 0)
        name, found = next(iter(self.examples.items()))
        self.worker.ask(name, found[0].request)

    def _schema(self, operation: str) -> dict[str, Any]:
        reports = {report.name: report for report in self.worker.status.operations or ()}
        return reports[operation].input_schema or {}

    def _spoilt(self, operation: str, request: Any) -> Iterator[tuple[str, Any]]:
        """Yield requests with one value of a wrong type, each with the path to it."""
        schema = self._schema(operation)
        yield from _spoilt(_Schema(schema, schema.get("$defs", {})), request, "")


@dataclass(frozen=True)
class _Schema:
    """A JSON Schema, and what its references lead to."""

    content: Mapping[str, Any]
    definitions: Mapping[str, Any]

    def at(self, part: Any) -> _Schema:
        """Return a part of it, followed to where it is defined."""
        while isinstance(part, dict) and "$ref" in part:
            part = self.definitions[part["$ref"].rpartition("/")[2]]
        return _Schema(part if isinstance(part, dict) else {}, self.definitions)

    def types(self) -> set[str] | None:
        """Return the JSON types that it allows; None if it does not say."""
        if "anyOf" in self.content:
            found = [self.at(option).types() for option in self.content["anyOf"]]
            return None if None in found else set().union(*(types for types in found if types))
        if "$ref" in self.content:
            return self.at(self.content).types()
        kind: str | Iterable[str] | None = self.content.get("type")
        return None if kind is None else {kind} if isinstance(kind, str) else set(kind)


def _spoilt(schema: _Schema, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    schema = schema.at(schema.content)
    if isinstance(value, dict):
        for key, part in schema.content.get("properties", {}).items():
            inner = schema.at(part)
            place = f"{path}.{key}" if path else key
            wrong = _wrong_for(inner.types())
            if wrong is not ANYTHING:
                yield place, {**value, key: wrong}
            if key in value:
                for deeper, changed in _spoilt(inner, value[key], place):
                    yield deeper, {**value, key: changed}
    elif isinstance(value, list) and value and "items" in schema.content:
        inner = schema.at(schema.content["items"])
        wrong = _wrong_for(inner.types())
        if wrong is not ANYTHING:
            yield f"{path}[0]", [wrong, *value[1:]]
        for deeper, changed in _spoilt(inner, value[0], f"{path}[0]"):
            yield deeper, [changed, *value[1:]]


def _wrong_for(types: set[str] | None) -> Any:
    """Return a value of none of these types, or ``ANYTHING`` if every value fits."""
    if not types:
        return ANYTHING
    taken = types | ({"integer"} if "number" in types else set())
    return next((value for kind, value in _CANDIDATES if kind not in taken), ANYTHING)


OperationsConformance = OperationsConformanceV1
"""The newest version."""
