"""``examples/assistant``: the program as a user runs it, with a host under the example's configuration."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler_host.config.loader import load_config
from handler_host.testing import HostUnderTest, RecordedRequest, Reply, Status, Upstream, host_under_test

pytestmark = pytest.mark.alone

ASSISTANT = Path(__file__).parents[3] / "examples" / "assistant"
CONFIG = (ASSISTANT / "host.toml").read_text()
ROLES = (ASSISTANT / "roles.toml").read_text()


def converse(host: HostUnderTest, roles: Path, *lines: str) -> tuple[str, str, dict[str, Any]]:
    """Run the program with the user's lines; return its output, its errors, and the state in ``sheets``."""
    command = [sys.executable, str(ASSISTANT / "assistant.py"), "--url", host.url]
    command += ["--user", "ann", "--roles", str(roles)]
    for line in lines:
        command += ["--say", line]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, f"{run.stdout}{run.stderr}{host.log}"
    return run.stdout, run.stderr, stored_state(host)


def stored_state(host: HostUnderTest) -> dict[str, Any]:
    """Return the user's messages and states in ``sheets``."""

    def dispatch(operation: str, **request: object) -> Any:
        status, response = host.request("POST", f"/v1/handlers/sheets/{operation}", {"user_id": "ann", **request})
        assert status == 200, response
        return response

    messages = [{"role": row["event"], "content": row["text"]} for row in dispatch("log.tail")["rows"]]
    states = {name: dispatch("states.get", name=name)["value"] for name in ("summary", "profile", "analyses")}
    return {"messages": messages, **states}


@pytest.mark.slow
def test_it_runs_with_all_five_roles_on_the_local_model(tmp_path: Path) -> None:
    """Each role does its part, whatever text the small model writes."""
    roles = tmp_path / "roles.toml"
    # Shorter responses, and an analysis after the first exchange.
    short = ROLES.replace("analyse_every = 4", "analyse_every = 2").replace("max_tokens = 160", "max_tokens = 20")
    roles.write_text(short)
    with host_under_test(CONFIG) as host:
        output, errors, state = converse(host, roles, "Hello, I am Ann. I live in Lyon.")
    assert [message["role"] for message in state["messages"]] == ["user", "assistant"]
    assert state["summary"]
    assert state["analyses"]
    assert all(set(fact) == {"name", "value"} for fact in state["profile"])
    assert "analyse=gpt_e, answer=gpt_e, extract=gpt_e" in output
    # Its JSON fits the schema, but may be truncated at max_tokens.
    assert all("not the JSON that was asked for" in line for line in errors.splitlines())


def play(received: RecordedRequest) -> Reply:
    """Reply as a good model does in each role."""
    system = received.parsed.system
    said = received.parsed.turns[-1].text
    if system.startswith("Summarise"):
        return Reply(("They ", "talk."))
    if system.startswith("List the facts"):
        facts = [{"name": "city", "value": "Lyon"}] if "Lyon" in said else []
        return Reply((json.dumps({"facts": facts}),))
    if system.startswith("Merge"):
        profile, new = (json.loads(line.partition(": ")[2])["facts"] for line in said.splitlines())
        return Reply((json.dumps({"facts": [*profile, *new]}),))
    if system.startswith("Say in two sentences"):
        return Reply(("Curious.",))
    return Reply(("I ", "see."))


@pytest.fixture
def provider() -> Iterator[Upstream]:
    with Upstream(key="sk-test").run() as running:
        running.respond_with(play)
        yield running


def test_with_a_provider_for_the_roles_it_keeps_the_conversation(tmp_path: Path, provider: Upstream) -> None:
    roles = tmp_path / "roles.toml"
    roles.write_text(ROLES.replace('model = "gpt_e"', 'model = "gpt_a/some-model"'))
    config = CONFIG.replace("[handlers.gpt_a]", f'[handlers.gpt_a]\nbase_url = "{provider.base_url("openai")}"')
    with host_under_test(config, environ={"OPENAI_API_KEY": "sk-test"}) as host:
        output, errors, state = converse(host, roles, "I live in Lyon.", "What is it like?")
        assert errors == ""
        assert output.count("  A> I see.\n") == 2
        assert state["messages"][2] == {"role": "user", "content": "What is it like?"}
        assert state["summary"] == "They talk."
        assert state["profile"] == [{"name": "city", "value": "Lyon"}]
        assert state["analyses"] == ["Curious."]
        assert output.endswith("played by: analyse=gpt_a, answer=gpt_a, extract=gpt_a, merge=gpt_a, summarise=gpt_a\n")
        assert {received.parsed.model for received in provider.requests} == {"some-model"}
        responses = [r for r in provider.requests if r.parsed.system.startswith("You are a friendly")]
        assert "city: Lyon" in responses[-1].parsed.system
        assert "They talk." in responses[-1].parsed.system
        assert [turn.role for turn in responses[-1].parsed.turns] == ["system", "user", "assistant", "user"]
        extractions = [r for r in provider.requests if r.parsed.system.startswith("List the facts")]
        assert extractions[0].body["response_format"]["json_schema"]["schema"]["required"] == ["facts"]

        # A second run continues with the stored state; a role that fails is reported, and the conversation continues.
        provider.respond_with(
            lambda received: Status(400, "no") if received.parsed.system.startswith("Merge") else play(received)
        )
        _, errors, state = converse(host, roles, "I have left Lyon.")
        assert "merge: no (400)" in errors  # the provider's own words, passed on as they came
        assert len(state["messages"]) == 6
        assert state["profile"] == [{"name": "city", "value": "Lyon"}]


def test_its_configuration_is_valid_with_the_commented_parts_too(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text(re.sub(r"^# (\[handlers|fallback)", r"\1", CONFIG, flags=re.MULTILINE))
    config = load_config(path, {}).config
    assert {name: config.policy(name).fallback for name in config.handlers} == {
        "gpt_a": ("gpt_e",),
        "gpt_b": ("gpt_a", "gpt_e"),
        "gpt_c": ("gpt_e",),
        "gpt_d": ("gpt_e",),
        "gpt_e": (),
        "sheets": (),
    }
