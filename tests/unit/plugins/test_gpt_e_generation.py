"""Parts of gpt_e without a model."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest

import gpt_e
from handler_host.plugin import Context, NativeRequest, UnknownOperation


async def test_failure_after_a_disconnect_is_not_logged_by_the_loop() -> None:
    def refuse(body: dict[str, Any], take: Callable[[dict[str, Any]], bool]) -> None:
        raise ValueError("[json.exception.type_error] a schema that llama.cpp cannot read")

    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    generation = gpt_e._Generation(refuse, {})
    await generation.end()
    await asyncio.sleep(0)  # the end of the queue, whose callback refers to the generation
    del generation
    gc.collect()
    assert reports == []


async def test_without_the_setting_there_are_no_embeddings() -> None:
    handler = gpt_e.GptE()
    handler.context = Context("gpt_e", 1, {"embeddings": "off"}, {}, logging.getLogger("gpt_e"))
    request = NativeRequest("openai.embeddings", "", None, False, {}, {}, b"{}")
    with pytest.raises(UnknownOperation, match="no embeddings"):
        await anext(aiter(handler.native_embeddings(request)))
