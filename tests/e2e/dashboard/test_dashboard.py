"""The dashboard in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from tests.e2e.dashboard.conftest import TOKEN, Host
from tests.support import install_plugin

LIMIT = 30_000
"""Milliseconds after which an expectation fails."""
expect.set_options(timeout=LIMIT)


def open_page(page: Page, host: Host, token: str = TOKEN) -> None:
    page.goto(f"{host.url}/admin/")
    page.get_by_label("Admin token").fill(token)
    button(page, "Sign in").click()


def sign_in(page: Page, host: Host) -> None:
    open_page(page, host)
    expect(page.locator("tr[data-handler=heavy]")).to_be_visible()


def state(page: Page, handler: str) -> Any:
    return page.locator(f"tr[data-handler={handler}] .state b")


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def total(page: Page) -> int:
    return int(page.locator("#chart").get_attribute("data-total") or 0)


def violations(page: Page) -> list[tuple[str, str]]:
    """Return what axe finds: each rule, and the elements that violate it."""
    found = Axe().run(page).response["violations"]
    return [(rule["id"], node["html"]) for rule in found for node in rule["nodes"]]


def call(host: Host, method: str, path: str) -> Any:
    """Send a request to the host outside the browser."""
    request = urllib.request.Request(host.url + path, method=method, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        return json.load(response)


ADDER = '''
from typing import Literal

import msgspec
from handler_host.plugin import operation

class Term(msgspec.Struct):
    value: int
    comment: str = ""

class Sum(msgspec.Struct):
    first: Term
    terms: list[Term]
    sign: Literal["+", "-"]

class Handler:
    @operation
    async def add(self, request: Sum) -> int:
        """Add numbers."""
        return sum(term.value for term in [request.first, *request.terms])
'''
CONTRASTS = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (share) => (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
  const light = (text) => {
    const [red, green, blue] = parts(text).map((value) => linear(value / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const background = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    const isTransparent = parts(colour)[3] === 0;
    return isTransparent && element.parentElement ? background(element.parentElement) : colour;
  };
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const texts = [...document.querySelectorAll("body *")].filter(
    (element) => element.checkVisibility() && !element.closest(":disabled") && hasText(element),
  );
  return texts.map((element) => {
    const colours = [light(getComputedStyle(element).color), light(background(element))];
    const [a, b] = colours.sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 80)];
  });
}"""
"""Contrast of each text with its background, as WCAG 2 defines it."""


class TestSession:
    def test_sign_in_and_out_without_storing_the_token(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/admin")
        assert TOKEN not in json.dumps(page.context.cookies())
        assert page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'
        page.reload()
        expect(page.locator("tr[data-handler=heavy]")).to_be_visible()
        button(page, "Sign out").click()
        expect(page.get_by_label("Admin token")).to_be_visible()
        page.reload()
        expect(page.get_by_label("Admin token")).to_be_visible()

    def test_wrong_token(self, page: Page, host: Host) -> None:
        open_page(page, host, "wrong")
        expect(page.get_by_role("alert")).to_have_text("This is not the admin token.")
        assert page.locator("tr[data-handler]").count() == 0
        assert page.context.cookies() == []
        page.get_by_label("Admin token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("tr[data-handler=heavy]")).to_be_visible()

    def test_drain_and_restart_of_the_host(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        assert page.request.post(f"{host.url}/admin/drain", headers={"Authorization": f"Bearer {TOKEN}"}).ok
        expect(page.locator("#connection")).to_have_attribute("data-state", "draining")
        host.stop()
        expect(page.locator("#connection")).to_have_attribute("data-state", "away")
        expect(page.locator("tr[data-handler=heavy]")).to_be_visible()  # the last data stays
        host.start()
        expect(page.locator("#connection")).to_have_attribute("data-state", "live")
        expect(page.locator("tr[data-handler=heavy]")).to_be_visible()
        expect(page.locator("#events li[data-kind=ready]")).to_have_count(1)
        host.stop()
        host.start(token="another-admin-token-of-the-browser-tests")
        expect(page.get_by_label("Admin token")).to_be_visible()
        expect(page.locator("#sign-in-reason")).to_contain_text("has restarted")


class TestChart:
    def test_cursor_by_mouse_and_arrow_keys(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        legend = page.locator("#legend")
        expect(legend).to_have_attribute("data-at", "now")
        page.wait_for_function("document.getElementById('chart').dataset.samples > 1")
        page.locator("#chart").hover(position={"x": 300, "y": 100})
        expect(legend).not_to_have_attribute("data-at", "now")
        expect(page.locator("#legend li[data-series=host] b")).to_have_text(re.compile(r"\d+\.\d MB"))
        expect(page.locator("#legend li[data-series=budget] b")).to_have_text(re.compile("^461 MB"))
        expect(page.locator("#legend li[data-series=limit] b")).to_have_text(re.compile("^512 MB"))
        page.mouse.move(0, 0)
        expect(legend).to_have_attribute("data-at", "now")
        page.locator("#chart").focus()
        page.keyboard.press("ArrowLeft")
        expect(legend).not_to_have_attribute("data-at", "now")

    def test_colours_follow_the_catalog(self, page: Page, host: Host) -> None:
        """The colours go by the catalog (heavy, light), so that all pages have the same."""
        sign_in(page, host)
        button(page, "Load light").click()
        swatch = page.locator("#legend li[data-series=light] .swatch")
        expect(swatch).to_have_attribute("data-colour", "series-1")
        page.reload()
        expect(swatch).to_have_attribute("data-colour", "series-1")


class TestActions:
    def test_load_and_unload_move_the_chart(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        expect(page.locator("#chart canvas")).to_be_visible()
        before = total(page)
        assert before > 0
        button(page, "Load heavy").click()
        expect(state(page, "heavy")).to_have_text("idle")
        expect(page.locator("#receipts li").first).to_contain_text("heavy activated: generation 1")
        page.wait_for_function("before => document.getElementById('chart').dataset.total > before + 35e6", arg=before)
        expect(page.locator("#legend li[data-series=heavy]")).to_be_visible()
        expect(page.locator("#next-eviction")).to_contain_text(re.compile(r"heavy \(\d\d\.\d MB\)"))
        high = total(page)
        button(page, "Unload heavy").click()
        released = re.compile(r"heavy unloaded: generation 1, \d\d\.\d MB released")
        expect(page.locator("#receipts li").first).to_have_text(released)
        expect(state(page, "heavy")).to_have_text("cold")
        expect(page.locator("tr[data-handler=heavy] .exit")).to_contain_text("operator")
        page.wait_for_function("high => document.getElementById('chart').dataset.total < high - 35e6", arg=high)

    def test_unload_of_a_busy_handler(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        page.locator("#try-handler").select_option("light")
        page.get_by_label("Request", exact=True).fill('{"messages": [{"role": "user", "content": "one WAIT"}]}')
        button(page, "Send").click()
        expect(page.locator("#try-response")).to_have_text("one ")
        expect(state(page, "light")).to_have_text("active")
        mode = page.get_by_label("how to unload or reload light")
        mode.select_option("if_idle")
        button(page, "Unload light").click()
        expect(page.locator("#receipts li.error").first).to_contain_text("handler_busy")
        mode.select_option("force")
        button(page, "Unload light").click()
        expect(page.locator("#receipts li").first).to_contain_text("0 drained, 1 killed")
        expect(page.locator("#try-response[data-state=failed]")).to_contain_text("one ")
        expect(state(page, "light")).to_have_text("cold")

    def test_pin_and_reload(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        button(page, "Load light").click()
        expect(state(page, "light")).to_have_text("idle")
        button(page, "Pin light").click()
        expect(button(page, "Pin light")).to_have_text("Pinned")
        assert call(host, "GET", "/admin/handlers/light")["pin"] is True
        page.get_by_label("how to unload or reload light").select_option("if_idle")
        button(page, "Reload light").click()
        expect(page.locator("#receipts li").first).to_contain_text("light unloaded: generation 1")

    def test_action_on_a_removed_handler(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        page.route("**/admin/overview*", lambda route: route.abort())  # so that its row stays
        for path in host.root.glob("light*"):
            shutil.rmtree(path)
        call(host, "POST", "/admin/rescan")
        button(page, "Load light").click()
        expect(page.locator("#receipts li.error").first).to_contain_text("unknown_handler")
        page.unroute("**/admin/overview*")
        expect(page.locator("tr[data-handler=light]")).to_have_count(0)

    def test_check_of_a_deploy(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        expect(page.locator("#verify")).to_be_hidden()
        host.configure(f'[verify]\nwhen = "start"\nflag = "{host.root}/flag"\n[handlers.light]\nverify = true\n')
        summary = page.locator("#verify summary")
        expect(summary).to_have_text(
            re.compile(r"Check of this deploy \(first start\): passed in .*, \d\.\d MB of the")
        )
        summary.press("Enter")
        expect(page.locator("#verify li").last).to_contain_text("light: healthy, activated in")
        for path in host.root.glob("heavy*/handler.toml"):
            path.write_text("[secrets.KEY_OF_NOBODY]\n")
        (host.root / "flag").unlink()
        host.configure("")
        expect(page.locator("#verify[data-state=failed][open] li.error")).to_contain_text("KEY_OF_NOBODY")


class TestTryIt:
    def test_stream_timing_and_errors(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        page.locator("#try-handler").select_option("heavy")
        request = {"messages": [{"role": "user", "content": "one two three"}]}
        page.get_by_label("Request", exact=True).fill(json.dumps(request))
        button(page, "Send").click()
        expect(page.locator("#try-response")).to_have_text("one two three ")
        expect(page.locator("#try-timing")).to_have_text(
            re.compile(r"200 · queue [\d.]+ ms · activate [1-9][\d.]* ms · handler [\d.]+ ms")
        )
        request["messages"][0]["content"] = "one BOOM"
        page.get_by_label("Request", exact=True).fill(json.dumps(request))
        page.get_by_label("Request", exact=True).press("Control+Enter")
        expect(page.locator("#try-response[data-state=failed]")).to_contain_text("handler_error")
        assert "a secret detail" not in page.content()
        page.get_by_label("stream").uncheck()
        page.get_by_label("Request", exact=True).fill("{")
        button(page, "Send").click()
        expect(page.locator("#try-response[data-state=failed]")).to_contain_text("invalid_input")

    def test_request_fits_the_operation(self, page: Page, host: Host) -> None:
        install_plugin(host.root, "adder", ADDER)
        sign_in(page, host)
        button(page, "Rescan").click()
        button(page, "Load adder").click()
        expect(state(page, "adder")).to_have_text("idle")
        page.locator("#try-handler").select_option("adder")
        field = page.get_by_label("Request", exact=True)
        expect(field).to_have_value('{ "first": { "value": 1 }, "terms": [], "sign": "+" }')
        page.get_by_label("stream").uncheck()
        button(page, "Send").click()
        expect(page.locator("#try-response")).to_have_text("1")
        field.fill('{"terms": [], "sign": "-"}')
        page.locator("#try-handler").select_option("heavy")
        expect(field).to_have_value('{"terms": [], "sign": "-"}')  # what the operator wrote stays
        # A plugin may send any JSON in place of a schema.
        make = "schema => import('/admin/static/example.js').then(m => m.exampleRequest({input_schema: schema}))"
        odd = [
            {"$ref": 1},
            {"anyOf": 1},
            {"type": "object", "properties": {"a": None}},
            {"$defs": 1, "$ref": "#/$defs/a"},
        ]
        assert {page.evaluate(make, schema) for schema in odd} <= {"{}", "null"}


class TestHandlerPage:
    def test_workers_settings_failures_and_log(self, page: Page, host: Host) -> None:
        (host.root / "heavy/handler.toml").write_text(
            "".join(f'[config.{key}]\ntype = "string"\n' for key in ("greeting", "api_key", "proxy"))
        )
        host.configure(
            '[handlers.heavy]\nidle_after = "5m"\napi_key = "a-secret-value"\ngreeting = "hello"\n'
            'proxy = "http://user:a-secret-password@127.0.0.1:3128"\n'
        )
        sign_in(page, host)
        button(page, "Load heavy").click()
        expect(state(page, "heavy")).to_have_text("idle")
        body = json.dumps({"messages": [{"role": "user", "content": "BOOM"}]})
        headers = {"Authorization": "Bearer a-key-of-a-consumer", "Content-Type": "application/json"}
        assert page.request.post(f"{host.url}/v1/handlers/heavy/chat", data=body, headers=headers).status == 500
        button(page, "Unload heavy").click()
        expect(state(page, "heavy")).to_have_text("cold")
        page.get_by_role("link", name="heavy").click()
        dialog = page.get_by_role("dialog", name="heavy")
        expect(dialog.locator("#details-workers tbody tr")).to_have_count(2)
        expect(dialog.locator("#details-workers tbody tr").first).to_contain_text("unloaded")
        assert dialog.get_by_label("PSS of generation 1").evaluate("meter => meter.value") > 40_000_000
        expect(dialog.locator("#details-failures summary")).to_contain_text("handler_error")
        expect(dialog.locator("#details-log")).to_contain_text("RuntimeError: a secret detail")
        settings = dialog.locator("#details-settings tbody tr")
        expect(settings.filter(has_text="greeting")).to_contain_text("[handlers.heavy]")
        expect(settings.filter(has_text="api_key")).to_contain_text("***")
        expect(settings.filter(has_text="idle_after")).to_contain_text("5m")
        expect(settings.filter(has_text="preload")).to_contain_text("[defaults]")
        expect(settings.filter(has_text="max_queue")).to_contain_text("default")
        expect(settings.filter(has_text="proxy")).to_contain_text("http://***@127.0.0.1:3128")
        for secret in ("a-secret-value", "a-secret-password"):
            assert secret not in page.content()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        assert page.evaluate("location.hash") == ""

    def test_each_of_several_workers_is_shown(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        button(page, "Load heavy").click()
        expect(state(page, "heavy")).to_have_text("idle")

        def add_worker(route: Route) -> None:
            """Add a second worker: the host starts one only for load that a test cannot make on every machine."""
            response = route.fetch()
            overview = response.json()
            heavy = next(handler for handler in overview["handlers"] if handler["name"] == "heavy")
            second = heavy["workers"][0] | {"generation": 2, "started_for": "growth", "pss": 20_000_000, "in_flight": 3}
            heavy["workers"].append(second)
            heavy["max_workers"] = 2
            eviction = {"handler": "heavy", "generation": 2, "size": 20_000_000, "idle_for": 1.0}
            overview["memory"]["evict_next"].append(eviction)
            route.fulfill(response=response, json=overview)

        page.route("**/admin/overview*", add_worker)
        expect(page.locator("#next-eviction")).to_contain_text("heavy generation 2")
        page.get_by_role("link", name="heavy").click()
        rows = page.get_by_role("dialog", name="heavy").locator("#details-workers tbody tr")
        expect(rows).to_have_count(3)
        expect(rows.nth(0)).to_contain_text("started for growth, 3 in flight")
        expect(rows.nth(1)).to_contain_text("started for operator, 0 in flight")
        sizes = [rows.nth(number).locator("meter").evaluate("meter => meter.value") for number in (0, 1)]
        assert sizes[0] == 20_000_000
        assert sizes[1] > 40_000_000
        page.unroute_all(behavior="ignoreErrors")

    def test_address(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        page.goto(f"{host.url}/admin/#handler=light")
        expect(page.get_by_role("dialog", name="light")).to_be_visible()
        page.evaluate("location.hash = ''")
        expect(page.get_by_role("dialog", name="light")).to_be_hidden()
        page.evaluate("location.hash = '#handler=%'")
        expect(page.get_by_role("dialog", name="%")).to_contain_text("unknown handler")
        expect(page.locator("#connection")).to_contain_text("live")


class TestEvents:
    def test_live_and_filtered(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        call(host, "POST", "/admin/handlers/light/load")
        expect(page.locator("#events li[data-kind=activated]")).to_contain_text("light")
        expect(state(page, "light")).to_have_text("idle")
        page.get_by_label("Kind").select_option("activated")
        expect(page.locator("#events li")).to_have_count(1)
        page.get_by_label("Kind").select_option("")
        expect(page.locator("#events li[data-kind=audit]").first).to_contain_text("load")


class TestAccessibility:
    def test_a_heading_for_each_column(self, page: Page, host: Host) -> None:
        sign_in(page, host)
        headings = page.locator("#handlers thead th").all_text_contents()
        labels = page.locator("tr[data-handler=light] td").evaluate_all(
            "cells => cells.map(cell => cell.dataset.label)"
        )
        assert headings == ["Handler", "State", "Actions", *labels[3:]]

    def test_table_fits_with_its_last_exits(self, page: Page, host: Host) -> None:
        install_plugin(host.root, "broken", "class Handler:\n    pass\n", manifest='title = "A broken one"\n')
        call(host, "POST", "/admin/rescan")
        sign_in(page, host)
        button(page, "Load heavy").click()
        button(page, "Unload heavy").click()
        expect(page.locator("tr[data-handler=heavy] .exit")).to_contain_text("operator: exit code 0")
        button(page, "Load light").click()
        expect(state(page, "light")).to_have_text("idle")
        button(page, "Load broken").click()
        expect(page.locator("tr[data-handler=broken] .exit")).to_contain_text("has no operation")
        scroll = page.locator(".scroll:has(#handlers)")
        for width in (1600, 1280, 1024):
            page.set_viewport_size({"width": width, "height": 900})
            assert scroll.evaluate("place => place.scrollWidth - place.clientWidth") == 0
            exits = page.locator(".exit:not([data-empty])").evaluate_all("cells => cells.map(cell => cell.clientWidth)")
            assert len(exits) == 2
            assert min(exits) >= 500
            for handler in ("heavy", "light"):
                controls = page.locator(f"tr[data-handler={handler}] .actions").locator("button, select")
                boxes = [box for box in (control.bounding_box() for control in controls.all()) if box is not None]
                assert len(boxes) == 6
                # On one line: the lowest starts above the bottom of the highest.
                assert max(box["y"] for box in boxes) < min(box["y"] + box["height"] for box in boxes)

    def test_phone_width_and_tab_order(self, page: Page, host: Host) -> None:
        install_plugin(host.root, "a_handler_with_a_name_of_more_than_forty_letters", "class Handler:\n    pass\n")
        call(host, "POST", "/admin/rescan")
        page.set_viewport_size({"width": 380, "height": 760})
        sign_in(page, host)
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.id"))
        assert {"Load heavy", "Pin light", "try-send", "Events, newest first", "rescan"} <= reached
        assert any("Memory over time" in name for name in reached)

    def test_load_and_unload_by_keyboard(self, page: Page, host: Host) -> None:
        page.goto(f"{host.url}/admin/")
        expect(page.get_by_label("Admin token")).to_be_focused()
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("tr[data-handler=heavy]")).to_be_visible()
        for action, expected in (("Load heavy", "idle"), ("Unload heavy", "cold")):
            for _ in range(30):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement.getAttribute('aria-label')") == action:
                    break
            page.keyboard.press("Enter")
            expect(state(page, "heavy")).to_have_text(expected)

    @pytest.mark.parametrize("width", [1280, 380])
    def test_no_violation_that_axe_finds(self, width: int, page: Page, host: Host) -> None:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{host.url}/admin/")
        assert violations(page) == []
        sign_in(page, host)
        button(page, "Load heavy").click()
        expect(state(page, "heavy")).to_have_text("idle")
        assert violations(page) == []
        page.get_by_role("link", name="heavy").click()
        expect(page.locator("#details-workers tbody tr").first).to_be_visible()
        assert violations(page) == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_contrast(self, scheme: Literal["light", "dark"], page: Page, host: Host) -> None:
        page.emulate_media(color_scheme=scheme)
        sign_in(page, host)
        button(page, "Load heavy").click()
        expect(state(page, "heavy")).to_have_text("idle")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(18, 22, 28)") == (scheme == "dark")
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 40
        assert [text for text in contrasts if text[0] < 4.5] == []


class TestPolicy:
    def test_requests_go_only_to_the_host(self, page: Page, host: Host) -> None:
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        sign_in(page, host)
        expect(page.locator("#events li").first).to_be_visible()
        assert urls
        assert {url for url in urls if not url.startswith(host.url + "/")} == set()


def test_failed_requests_are_listed_and_explained(page: Page, host: Host) -> None:
    sign_in(page, host)
    expect(page.locator("#no-failures")).to_be_visible()
    answer = page.request.post(f"{host.url}/v1/handlers/heavy/nothing", data={})
    request_id = answer.headers["x-request-id"]
    row = page.locator("#failures details").first
    expect(row).to_contain_text("invalid_key")
    row.locator("summary").click()
    expect(row.locator("dd").first).to_have_text(request_id)
    page.get_by_label("Request ID").fill(request_id)
    button(page, "Explain").click()
    expect(page.locator("#why-result")).to_contain_text("this route needs an API key")
    page.get_by_label("Request ID").fill("unknown-1")
    button(page, "Explain").click()
    expect(page.locator("#why-result .error")).to_contain_text("no failed request 'unknown-1'")


def test_tokens_of_consumers_are_listed(page: Page, host: Host) -> None:
    sign_in(page, host)
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
    headers = {"Authorization": "Bearer a-key-of-a-consumer", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{host.url}/v1/handlers/heavy/chat", data=body, headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        assert response.status == 200
    expect(page.locator("#usage tbody tr")).to_contain_text("key-1")
    expect(page.locator("#usage tbody td").first).to_have_text("1,200")
