"""From a worker's error frame to the error for the client."""

from __future__ import annotations

import msgspec

from handler_host._internal.log import mask_secrets
from handler_host.channel import frames
from handler_host.plugin.errors import BY_CODE, HandlerFault, HostError, UpstreamError
from handler_host.plugin.native_response import NativeResponse

MAX_RETRY_AFTER_S = 24 * 3600.0


def host_error(frame: frames.Error) -> HostError:
    """Return the error of a frame, without the host's secrets and without values that a client cannot use."""
    retry_after = frame.retry_after
    if retry_after is not None and not 0 <= retry_after <= MAX_RETRY_AFTER_S:
        retry_after = None  # not a number, or not a time that a client can wait
    cause = None if frame.cause is None else mask_secrets(frame.cause)
    error = BY_CODE.get(frame.code, HandlerFault)(
        mask_secrets(frame.message), param=frame.param, retry_after=retry_after, cause=cause
    )
    if frame.response is not None and isinstance(error, UpstreamError):
        error.response = _without_secrets(frame.response)
    return error


def _without_secrets(response: NativeResponse) -> NativeResponse:
    text = mask_secrets(response.body.decode(errors="surrogateescape"))
    return msgspec.structs.replace(response, body=text.encode(errors="surrogateescape"))
