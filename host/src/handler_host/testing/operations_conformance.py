"""Tests that every handler with typed operations must pass: the class that its author subclasses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from handler_host.plugin.errors import InvalidInput, UnknownOperation
from handler_host.testing.conformance import Conformance, assert_refused

ANYTHING: Any = object()
"""A response that is not compared."""
_WRONG_VALUES: Sequence[tuple[str, Any]] = (("string", "no"), ("integer", 7), ("array", []), ("object", {}))


@dataclass(frozen=True)
class Example:
    """A request to an operation, and its response (for a stream: the list of its chunks)."""

    request: Any
    response: Any = ANYTHING


def _difference(operation: str, response: Any, example: Example) -> str:
    return (
        f"{operation} responded {response!r} instead of {example.response!r}; tests send an example several times: "
        "if its response depends on earlier requests, write Example(request) without a response"
    )


class OperationsConformanceV1(Conformance):
    """Tests of a handler in a real worker process: subclass it, name the handler and give examples.

    A later version of the class demands more; this one stays as it is.
    """

    examples: ClassVar[Mapping[str, Sequence[Example]]]
    """At least one example for each operation that is not in ``slow``."""
    slow: ClassVar[Mapping[str, Any]] = {}
    """A request that takes seconds for each slow operation: tests disconnect in the middle of it."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each example, and of each slow request (pytest's hook)."""
        if "example" in metafunc.fixturenames:
            cases = [
                (operation, number, example)
                for operation, examples in self.examples.items()
                for number, example in enumerate(examples)
            ]
            pairs = [(operation, example) for operation, _, example in cases]
            ids = [f"{operation}-{number}" for operation, number, _ in cases]
            metafunc.parametrize(("operation", "example"), pairs, ids=ids)
        elif "operation" in metafunc.fixturenames:
            metafunc.parametrize("operation", self.slow)

    def test_an_example_gets_its_response(self, operation: str, example: Example) -> None:
        """Whole and streamed."""
        response = self.worker.dispatch(operation, example.request)
        chunks = list(self.worker.dispatch_stream(operation, example.request))
        assert chunks, "the stream has no chunk"
        if example.response is not ANYTHING:
            assert response == example.response, _difference(operation, response, example)
            assert chunks in ([response], response), _difference(operation, chunks, example)

    def test_every_operation_has_an_example(self) -> None:
        """So that every operation is tested."""
        assert {operation.name for operation in self.worker.status.operations or ()} == {*self.examples, *self.slow}

    def test_a_field_of_a_wrong_type_is_a_400_with_its_path(self) -> None:
        """Each field of the first example in turn, nested ones too, by the operation's schema."""
        for operation, examples in self.examples.items():
            for path, request in self._requests_with_a_wrong_field(operation, examples[0].request):
                error = self.worker.error_of(operation, request)
                assert isinstance(error, InvalidInput), f"{operation} with a wrong {path or 'request'}: {error!r}"
                assert (error.param or "") == path, f"{operation} with a wrong {path}: {error}"

    def test_a_request_that_is_not_an_object_is_a_400(self) -> None:
        """A list, a string, a number, null, where an object is expected."""
        for operation, examples in self.examples.items():
            if isinstance(examples[0].request, dict):
                wrong: Sequence[object] = ([], "text", 7, None)
                for request in wrong:
                    error = self.worker.error_of(operation, request)
                    assert isinstance(error, InvalidInput), f"{operation} with {request!r}: {error!r}"

    def test_an_unknown_field_is_refused_where_the_schema_says_so(self) -> None:
        """With its name; an open schema accepts it."""
        for operation, examples in self.examples.items():
            schema = self._schema(operation)
            if schema.get("additionalProperties") is False:
                error = self.worker.error_of(operation, {**examples[0].request, "no_such_field": 1})
                assert_refused(error, "no_such_field")

    def test_an_unknown_operation_is_a_404_that_names_the_known_ones(self) -> None:
        """Without a dispatch to the worker."""
        error = self.worker.error_of("no.such.operation", {})
        assert isinstance(error, UnknownOperation), error
        assert all(operation in error.message for operation in self.examples)

    def test_concurrent_requests_get_their_own_responses(self) -> None:
        """Each example eight times."""
        running = [
            (operation, example, self.worker.start_dispatch(operation, example.request))
            for operation, examples in self.examples.items()
            for example in [*examples] * 8
        ]
        for operation, example, future in running:
            response = future.result(60)
            assert example.response is ANYTHING or response == example.response, _difference(
                operation, response, example
            )

    def test_a_client_that_disconnects_frees_its_place(self, operation: str) -> None:
        """In the middle of a slow request; the next request gets its response."""
        slow = self.worker.start_dispatch(operation, self.slow[operation])
        self.worker.wait_until(lambda status: status.in_flight == 1 or slow.done())
        assert not slow.done(), "the request was not slow"
        slow.cancel()
        self.worker.wait_until(lambda status: status.in_flight == 0)
        name, examples = next(iter(self.examples.items()))
        self.worker.dispatch(name, examples[0].request)

    def _schema(self, operation: str) -> dict[str, Any]:
        schemas = {info.name: info.input_schema for info in self.worker.status.operations or ()}
        return schemas[operation] or {}

    def _requests_with_a_wrong_field(self, operation: str, request: Any) -> Iterator[tuple[str, Any]]:
        """Yield requests with one value of a wrong type, each with the path to it."""
        schema = self._schema(operation)
        yield from _with_a_wrong_field(_Schema(schema, schema.get("$defs", {})), request, "")


@dataclass(frozen=True)
class _Schema:
    """A JSON Schema, with the definitions for its references."""

    content: Mapping[str, Any]
    definitions: Mapping[str, Any]

    def at(self, part: Any) -> _Schema:
        """Return a part of the schema, with references resolved."""
        while isinstance(part, dict) and "$ref" in part:
            part = self.definitions[part["$ref"].rpartition("/")[2]]
        return _Schema(part if isinstance(part, dict) else {}, self.definitions)

    def types(self) -> set[str] | None:
        """Return the JSON types that it allows, or None if it allows any."""
        if "anyOf" in self.content:
            options = [self.at(option).types() for option in self.content["anyOf"]]
            return None if None in options else set().union(*(types for types in options if types))
        if "$ref" in self.content:
            return self.at(self.content).types()
        kind: str | Iterable[str] | None = self.content.get("type")
        return None if kind is None else {kind} if isinstance(kind, str) else set(kind)


def _with_a_wrong_field(schema: _Schema, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    schema = schema.at(schema.content)
    if isinstance(value, dict):
        for key, part in schema.content.get("properties", {}).items():
            inner = schema.at(part)
            place = f"{path}.{key}" if path else key
            wrong = _value_of_no_type(inner.types())
            if wrong is not ANYTHING:
                yield place, {**value, key: wrong}
            if key in value:
                for deeper, changed in _with_a_wrong_field(inner, value[key], place):
                    yield deeper, {**value, key: changed}
    elif isinstance(value, list) and value and "items" in schema.content:
        inner = schema.at(schema.content["items"])
        wrong = _value_of_no_type(inner.types())
        if wrong is not ANYTHING:
            yield f"{path}[0]", [wrong, *value[1:]]
        for deeper, changed in _with_a_wrong_field(inner, value[0], f"{path}[0]"):
            yield deeper, [changed, *value[1:]]


def _value_of_no_type(types: set[str] | None) -> Any:
    """Return a value that has none of these types, or ``ANYTHING`` if every value fits."""
    if not types:
        return ANYTHING
    allowed = types | ({"integer"} if "number" in types else set())
    return next((value for kind, value in _WRONG_VALUES if kind not in allowed), ANYTHING)


OperationsConformance = OperationsConformanceV1
"""The newest version."""
