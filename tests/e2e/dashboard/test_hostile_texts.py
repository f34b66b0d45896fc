"""Texts of clients, plugins and providers in the pages of the host: a real browser shows them and runs none."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from playwright.sync_api import Page, expect

from tests.e2e.dashboard.conftest import Host
from tests.e2e.dashboard.test_dashboard import button, call, sign_in
from tests.support import install_plugin

ATTACKS = (
    "<img src=x onerror=document.hacked=1>",
    "<script>document.hacked=1</script>",
    "</script></style></textarea><svg/onload=document.hacked=1>",
    "\"'><iframe srcdoc='<script>top.document.hacked=1</script>'></iframe>",
    "javascript:document.hacked=1//{{constructor.constructor('document.hacked=1')()}}${document.hacked=1}",
)
TEXT = " ".join(ATTACKS)
HANDLER = f"""
import logging
import msgspec
from handler_host.chat import ChatHandler, Usage, UsageChunk, ModelChunk
from handler_host.plugin import operation
from handler_host.plugin.errors import UpstreamError

TEXT = {TEXT!r}

class Text(msgspec.Struct, rename=lambda name: TEXT.replace('"', "")):
    value: str = TEXT

class Handler(ChatHandler):
    async def stream(self, request):
        logging.warning(TEXT)
        print(TEXT)
        if request.last_text() == "fail":
            raise UpstreamError(TEXT)
        yield ModelChunk(model=TEXT)
        yield TEXT
        yield UsageChunk(usage=Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2))

    @operation(summary=TEXT)
    async def show(self, body: Text) -> Text:
        return body
"""


def send(host: Host, body: object, path: str = "/v1/chat/completions", key: str = "a-key-of-a-consumer") -> Any:
    """Send a request whose headers are hostile, too; return its status and headers."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "User-Agent": TEXT}
    headers |= {"X-Request-ID": ATTACKS[0], "Referer": TEXT, "traceparent": TEXT, "X-Forwarded-For": TEXT}
    request = urllib.request.Request(host.url + path, data=json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
            return response.status, response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers


def test_hostile_texts_are_shown_and_not_run(page: Page, host: Host) -> None:
    """Titles, operations, models, errors, logs, user agents, request IDs, and what the operator pastes."""
    manifest = f"title = {json.dumps(TEXT)}\ndescription = {json.dumps(TEXT)}\n"
    install_plugin(host.root, "rogue", HANDLER, manifest=manifest)
    call(host, "POST", "/admin/rescan")
    sign_in(page, host)
    failing = {"messages": [{"role": "user", "content": "fail"}]}
    status, headers = send(host, {"model": "rogue", **failing})
    assert status == 502
    assert send(host, {"model": TEXT, **failing})[0] == 404
    assert send(host, {}, key=TEXT)[0] == 401
    assert send(host, {"model": "rogue", "messages": [{"role": "user", "content": TEXT}]})[0] == 200
    expect(page.locator("#failures details")).to_have_count(3)
    for summary in page.locator("#failures details summary").all():
        summary.click()
    for request_id in (headers["X-Request-ID"], TEXT):
        page.get_by_label("Request ID").fill(request_id)
        button(page, "Explain").click()
        expect(page.locator("#why-result")).to_contain_text(ATTACKS[0])
    page.get_by_role("link", name="rogue").click()
    expect(page.get_by_role("dialog", name="rogue").locator("#details-log")).to_contain_text(ATTACKS[0])
    expect(page.locator("#events")).to_contain_text("rogue")
    assert_nothing_ran(page)
    page.goto(f"{host.url}/docs")
    page.get_by_label("API key").fill("a-key-of-a-consumer")
    button(page, "Show the operations").click()
    expect(page.locator("#operations")).to_contain_text(ATTACKS[0])
    assert_nothing_ran(page)


def assert_nothing_ran(page: Page) -> None:
    """No text has become an element, or run; a violation of the policy fails the fixture ``page``, too."""
    assert page.evaluate("document.hacked") is None
    assert page.locator("iframe, img, svg[onload], [href^='javascript:'], [onerror]").count() == 0
