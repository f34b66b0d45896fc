"""The end of a provider's native stream: each protocol marks it, so that a stream that was cut off can be seen.

A connection that the provider, or a proxy before it, closes between two events looks like a normal end of the response.
"""

from __future__ import annotations

import re

from handler_host.plugin.errors import UpstreamError

_MARKS = {
    # Many servers omit [DONE]; a placeholder in finish_reason is not an end.
    "openai.chat": rb'"finish_reason"\s*:\s*(?:"(?!null")[^"]+"|[\d{])',
    "openai.responses": rb'"response\.(?:cancelled|completed|failed|incomplete)"',
    # message_delta has the reason, after all of the content.
    "anthropic.messages": rb'"(?:stop_reason"\s*:\s*"[^"]|message_stop")',
    "gemini.generate_content": rb'"(?:finishReason|blockReason)"\s*:\s*"(?!FINISH_REASON_UNSPECIFIED")[^"]+"',
}
"""Field or event that ends the streams of an operation; unescaped quotes do not occur in the text of a response."""
_LAST_LINE = re.compile(
    rb'\n(?:event: ?error|data: ?(?:"?\[(?:DONE|done)\]|\{\s*"(?:error"\s*:\s*["{]|type"\s*:\s*"error")))'
)
"""Line that ends a stream of any protocol: ``[DONE]``, or the provider's own error."""
_BLANK = b"\xef\xbb\xbf \t\r\n"
_OVERLAP_BYTES = 128
"""Bytes of a part that are searched again with the next one: longer than a mark."""


class StreamEnd:
    """Search for the end of one stream of ``operation``, in its bytes as they come.

    A JSON document in place of a stream needs no mark: its reader sees that it is incomplete.
    """

    def __init__(self, operation: str) -> None:
        mark = _MARKS.get(operation)
        self._mark = re.compile(mark or b"")
        self._is_found = mark is None
        self._tail = b"\n"

    def feed(self, data: bytes) -> None:
        """Read the next bytes."""
        if self._is_found:
            return
        text = self._tail + data
        is_document = not self._tail.strip(_BLANK) and text.lstrip(_BLANK)[:1] in (b"{", b"[")
        self._is_found = is_document or bool(self._mark.search(text) or _LAST_LINE.search(text))
        self._tail = text[-_OVERLAP_BYTES:]

    def check(self) -> None:
        """Raise ``UpstreamError`` if the stream has ended without its mark."""
        if not self._is_found:
            raise UpstreamError("the provider's response was cut off: the stream ended without its last event")
