"""The declarations of protocols agree with their code, which is imported with the first request."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest

from handler_host.app import PROTOCOLS
from handler_host.config import Config
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.http.body import BodyReader
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.protocols.chat_service import ChatService
from handler_host.protocols.protocol import ClientProtocol, protocol_routes


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_declared_paths_are_those_of_the_module_in_order(protocol: ClientProtocol, tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path)
    chats = ChatService(Dispatcher(Supervisor(config), config.server.request_timeout))
    routes = import_module(protocol.module).routes(chats, BodyReader(config.server, lambda: 2**30))
    assert [(route.method, route.path) for route in routes] == list(protocol.paths)


def test_shared_route_needs_a_marker() -> None:
    first, second = (ClientProtocol(name=name, paths=(("GET", "/v1/models"),), module="none") for name in "ab")
    with pytest.raises(ValueError, match="b: GET /v1/models is taken; declare a marker_header"):
        protocol_routes([first, second], cast("Any", None), cast("Any", None), lambda protocol: ())
