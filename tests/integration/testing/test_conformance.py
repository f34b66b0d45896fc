"""The conformance classes find what they are there for, in handlers that do one thing wrong each."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from handler_host.testing import ChatConformance, Example, OperationsConformance
from tests.support import install_plugin

FLAWED = Path(__file__).with_name("flawed.py")
HEADER = """
from pathlib import Path
import handler_host.testing.provider_conformance
import handler_host.testing.native_conformance
from handler_host.testing import ChatConformance, Example, NativeConformance, OperationsConformance

handler_host.testing.native_conformance.DISCONNECT_TIMEOUT_S = 5.0
handler_host.testing.native_conformance.TIMEOUT_S = 5.0
handler_host.testing.provider_conformance.DISCONNECT_TIMEOUT_S = 1.0
"""
OF_GPT_A = """
class Test{name}(ChatConformance):
    handler = "{handler}"
    roots = (Path({root!r}),)
    protocol = "openai"
    settings = {{"retries": 0, "timeout": 1.0}}
    secrets = {{"OPENAI_API_KEY": "sk-a-secret"}}
"""
NATIVELY = """
class Test{name}(NativeConformance):
    handler = "{handler}"
    roots = (Path({root!r}),)
    operations = ("openai.chat", "openai.responses")
    settings = {{"retries": 0}}
    secrets = {{"OPENAI_API_KEY": "sk-a-secret"}}
"""
OF_PARROTS = """
class Test{name}(ChatConformance):
    handler = "{handler}"
    roots = (Path({root!r}),)
"""
OF_ADDERS = """
class Test{name}(OperationsConformance):
    handler = "{handler}"
    roots = (Path({root!r}),)
    examples = {{"add": [Example({{"left": 1, "right": 2}}, 3)]}}
    slow = {{"slow": {{"left": 1}}}}
"""
TEMPLATES = {
    # With the timeout of the others gpt_a itself may close the connection just before the test misses it.
    "Deaf": OF_GPT_A.replace('"timeout": 1.0', '"timeout": 60.0'),
    **dict.fromkeys(("Reencoding", "Collecting", "Rewording", "Remaining"), NATIVELY),
    "Endless": OF_PARROTS,
    "Dying": OF_PARROTS,
    "Miscounting": OF_ADDERS,
}
FOUND = {
    "Truncated": ("test_a_response_that_breaks_off_is_an_error[truncated]",),
    "Dropping": (
        "test_no_field_is_dropped_in_silence[seed]",
        "test_a_request_for_two_responses_gets_both_or_a_400",
    ),
    "Hoarding": ("test_the_first_chunk_does_not_wait_for_the_second",),
    "Deaf": ("test_a_client_that_disconnects_closes_the_providers_connection[stalled]",),
    "Insisting": ("test_a_response_that_breaks_off_is_an_error[cut]",),
    "Mixing": ("test_concurrent_requests_get_their_own_responses",),
    "Reencoding": (
        "test_every_native_operation_is_tested",
        "test_the_body_reaches_the_provider_as_it_was_sent[openai.chat-whole]",
        "test_the_body_reaches_the_provider_as_it_was_sent[openai.chat-stream]",
    ),
    "Collecting": ("test_the_first_event_does_not_wait_for_the_second[openai.chat]",),
    "Rewording": (
        "test_an_error_keeps_its_status_and_body[openai.chat-whole-400]",
        "test_only_headers_of_features_reach_the_provider[openai.chat]",
    ),
    "Remaining": ("test_clients_that_leave_close_the_providers_connections",),
    "Endless": (
        "test_the_chunks_of_a_stream_accumulate_to_the_same_response",
        "test_every_response_has_its_usage",
        "test_max_tokens_gives_the_finish_reason_length",
    ),
    "Dying": ("test_empty_content_gets_a_response_or_a_400",),
    "Miscounting": (
        "test_an_example_gets_its_response[add-0]",
        "test_every_operation_has_an_example",
        "test_a_client_that_disconnects_frees_its_place[slow]",
    ),
}
"""Flaw → names of the tests that must find it."""


def lay_out(root: Path, name: str) -> str:
    """Install a flawed handler; return its name."""
    handler = f"flawed_{name.lower()}"
    manifest = (FLAWED.parents[3] / "plugins/gpt_a/src/gpt_a/handler.toml").read_text()
    of_gpt_a = "(GptA)" in FLAWED.read_text().partition(f"class {name}")[2].partition("\n")[0]
    install_plugin(root, handler, FLAWED.read_text(), attribute=name, manifest=manifest if of_gpt_a else None)
    return handler


@pytest.mark.slow
def test_each_flaw_is_found(tmp_path: Path) -> None:
    """One run of pytest as a plugin's author has it, of the tests that have to fail."""
    root = tmp_path / "plugins"
    source = HEADER
    for name in FOUND:
        source += TEMPLATES.get(name, OF_GPT_A).format(name=name, handler=lay_out(root, name), root=str(root))
    module = tmp_path / "test_flawed.py"
    module.write_text(source)
    wanted = [f"{module.name}::Test{name}::{test}" for name, tests in FOUND.items() for test in tests]
    command = [sys.executable, "-m", "pytest", "-q", "-rfEp", "-p", "no:cacheprovider", "-p", "no:llmock", *wanted]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    failed = set(re.findall(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE))
    assert failed == set(wanted), run.stdout
    # The assertions of the classes are rewritten, so that an author sees the values.
    assert "assert 'stop' == 'length'" in run.stdout, run.stdout


@pytest.fixture(scope="class", autouse=True)
def _installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Lay a handler into a directory before the class's own set-up looks for it."""
    if request.cls is not None:
        root = tmp_path_factory.mktemp("plugins")
        lay_out(root, request.cls.flawed)
        request.cls.roots = (root,)


class TestParrot(ChatConformance):
    """A dozen-line handler conforms, if it says what it does not do."""

    flawed = "Parrot"
    handler = "flawed_parrot"
    ignores = frozenset({"usage", "max_tokens", "finish_reason", "images"})


class TestAdder(OperationsConformance):
    flawed = "Adder"
    handler = "flawed_adder"
    examples = {
        "add": [Example({"left": 1, "right": 2}, 3), Example({"left": 1}, 1)],
        "loose": [Example({"left": 1}, 1)],
        "total": [Example({"all": [{"left": 1}, {"left": 2, "right": 2}]}, [1, 4])],
    }
    slow = {"slow": {"left": 1}}

    def test_another_response_than_the_examples_is_explained(self) -> None:
        with pytest.raises(AssertionError, match=r"add responded 3 instead of 4; .* write Example\(request\) without"):
            self.test_an_example_gets_its_response("add", Example({"left": 1, "right": 2}, 4))
