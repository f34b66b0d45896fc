"""Tool calls of a history that wait for their results, for clients that leave out the IDs of calls. Pure."""

from __future__ import annotations

from collections import defaultdict, deque


class OpenCalls:
    """Tool calls without a result; the search for one takes the same time however many there are."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str | None, str | None], deque[_OpenCall]] = defaultdict(deque)
        """Calls by ID and name, with None for each of the two that a result may leave out."""
        self._count = 0

    def add(self, call_id: str | None, name: str) -> str:
        """Add a call and return its ID, which is a new one if the call has none."""
        self._count += 1
        call = _OpenCall(call_id or f"call_{self._count}")
        for key in ((call.id, name), (call.id, None), (None, name), (None, None)):
            self._calls[key].append(call)
        return call.id

    def close(self, call_id: str | None, name: str | None) -> str | None:
        """Remove the earliest call with this ID and name, of which None fits any; return its ID, or None.

        An ID or a name that no call of the history has fits any, too: some clients write others into results.
        """
        if (call_id, None) not in self._calls:
            call_id = None
        if (call_id, name) not in self._calls:
            name = None
        calls = self._calls.get((call_id, name))
        while calls:
            call = calls.popleft()
            if not call.has_result:
                call.has_result = True
                return call.id
        return None


class _OpenCall:
    """A call in the queues of its ID and name; a result takes it from one of them."""

    __slots__ = ("has_result", "id")

    def __init__(self, call_id: str) -> None:
        self.id = call_id
        self.has_result = False
