"""``examples/assistant``: the program as a user runs it, against the host with its own configuration."""

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
from handler_host.testing import HostUnderTest, Received, Reply, Status, Upstream, host_under_test

pytestmark = pytest.mark.alone

ASSISTANT = Path(__file__).parents[3] / "examples" / "assistant"
CONFIG = (ASSISTANT / "host.toml").read_text()
ROLES = (ASSISTANT / "roles.toml").read_text()


def converse(host: HostUnderTest, roles: Path, *said: str) -> tuple[str, str, dict[str, Any]]:
    """Run the program with what the user says; return what it printed, its complaints, and what it remembers."""
    command = [sys.executable, str(ASSISTANT / "assistant.py"), "--url", host.url]
    command += ["--user", "ann", "--roles", str(roles)]
    for text in said:
        command += ["--say", text]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, f"{run.stdout}{run.stderr}{host.log}"
    return run.stdout, run.stderr, remembered(host)


def remembered(host: HostUnderTest) -> dict[str, Any]:
    """Return what ``sheets`` has of the user."""

    def ask(operation: str, **request: object) -> Any:
        status, response = host.json("POST", f"/v1/handlers/sheets/{operation}", {"user_id": "ann", **request})
        assert status == 200, response
        return response

    messages = [{"role": row["event"], "content": row["text"]} for row in ask("log.tail")["rows"]]
    states = {name: ask("states.get", name=name)["value"] for name in ("summary", "profile", "analyses")}
    return {"messages": messages, **states}


@pytest.mark.slow
def test_it_runs_as_it_comes_with_all_five_roles_on_the_local_model(tmp_path: Path) -> None:
    """What the small model says is not looked at, but that each role has done its part."""
    roles = tmp_path / "roles.toml"
    # Shorter answers than for people, and E looks at once.
    short = ROLES.replace("analyse_every = 4", "analyse_every = 2").replace("max_tokens = 160", "max_tokens = 20")
    roles.write_text(short)
    with host_under_test(CONFIG) as host:
        printed, complaints, state = converse(host, roles, "Hello, I am Ann. I live in Lyon.")
    assert [message["role"] for message in state["messages"]] == ["user", "assistant"]
    assert state["summary"]
    assert state["analyses"]
    assert all(set(fact) == {"name", "value"} for fact in state["profile"])
    assert "analyse=gpt_e, answer=gpt_e, extract=gpt_e" in printed
    # Its JSON fits the schema, but may be cut off for its length.
    assert all("not the JSON that was asked for" in line for line in complaints.splitlines())


def played(received: Received) -> Reply:
    """What a good model would say in each role."""
    system = received.asked.system
    said = received.asked.turns[-1].text
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
    with Upstream(key="sk-test").running() as running:
        running.say(played)
        yield running


def test_with_a_provider_behind_the_roles_it_remembers_what_it_was_told(tmp_path: Path, provider: Upstream) -> None:
    roles = tmp_path / "roles.toml"
    roles.write_text(ROLES.replace('model = "gpt_e"', 'model = "gpt_a/some-model"'))
    config = CONFIG.replace("[handlers.gpt_a]", f'[handlers.gpt_a]\nbase_url = "{provider.base_url("openai")}"')
    with host_under_test(config, environ={"OPENAI_API_KEY": "sk-test"}) as host:
        printed, complaints, state = converse(host, roles, "I live in Lyon.", "What is it like?")
        assert complaints == ""
        assert printed.count("  A> I see.\n") == 2
        assert state["messages"][2] == {"role": "user", "content": "What is it like?"}
        assert state["summary"] == "They talk."
        assert state["profile"] == [{"name": "city", "value": "Lyon"}]
        assert state["analyses"] == ["Curious."]
        assert printed.endswith("played by: analyse=gpt_a, answer=gpt_a, extract=gpt_a, merge=gpt_a, summarise=gpt_a\n")
        assert {received.asked.model for received in provider.requests} == {"some-model"}
        responses = [r for r in provider.requests if r.asked.system.startswith("You are a friendly")]
        assert "city: Lyon" in responses[-1].asked.system
        assert "They talk." in responses[-1].asked.system
        assert [turn.role for turn in responses[-1].asked.turns] == ["system", "user", "assistant", "user"]
        extractions = [r for r in provider.requests if r.asked.system.startswith("List the facts")]
        assert extractions[0].body["response_format"]["json_schema"]["schema"]["required"] == ["facts"]

        # The state is taken up again, and a role that fails is told without ending the conversation.
        provider.say(
            lambda received: Status(400, "no") if received.asked.system.startswith("Merge") else played(received)
        )
        _, complaints, state = converse(host, roles, "I have left Lyon.")
        assert "merge: the provider refused the request (400): no" in complaints
        assert len(state["messages"]) == 6
        assert state["profile"] == [{"name": "city", "value": "Lyon"}]


def test_its_configuration_is_in_order_with_what_stands_there_as_a_comment_too(tmp_path: Path) -> None:
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
