"""Resolution of a client's model: aliases, handlers, patterns."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.config import Config
from handler_host.config.loader import load_config
from handler_host.config.model_aliases import ModelAlias, ModelTarget, find_unknown_targets
from handler_host.dispatch.config_flaws import find_config_flaws
from handler_host.dispatch.model_names import AliasTable, ModelNames, split_model

HANDLERS = {"gpt_a", "gpt_b", "gpt_c", "gpt_e"}
MODELS = {
    "fast": "gpt_e",
    "smart": "gpt_b/claude-opus-4-8",
    "claude-*": "gpt_b",
    "claude-haiku-*": "gpt_a/gpt-5-mini",
    "gpt-5*": "gpt_a/{model}",
    "o?": "gpt_a/{default}",
    "models/gemini-*": "gpt_c/x/{model}",
    "claude-sonnet-4-5": "gpt_c",
}


def resolve(name: str, models: dict[str, str] = MODELS) -> tuple[str, str | None]:
    return AliasTable(models).resolve(name, HANDLERS.__contains__)


@pytest.mark.parametrize(
    ("name", "handler", "model"),
    [
        ("gpt_a", "gpt_a", None),
        ("gpt_a/gpt-5.5", "gpt_a", "gpt-5.5"),
        ("gpt_a/openai/gpt-4o", "gpt_a", "openai/gpt-4o"),
        ("fast", "gpt_e", None),
        ("fast/x", "fast", "x"),
        ("smart", "gpt_b", "claude-opus-4-8"),
        ("claude-opus-4-8", "gpt_b", "claude-opus-4-8"),
        ("claude-haiku-4-5", "gpt_a", "gpt-5-mini"),
        ("claude-sonnet-4-5", "gpt_c", None),
        ("gpt-5.5", "gpt_a", "gpt-5.5"),
        ("o3", "gpt_a", None),
        ("o3-mini", "o3-mini", None),
        ("models/gemini-3-flash-preview", "gpt_c", "x/models/gemini-3-flash-preview"),
        ("Claude-opus-4-8", "Claude-opus-4-8", None),
        ("unknown/model", "unknown", "model"),
    ],
)
def test_resolve(name: str, handler: str, model: str | None) -> None:
    assert resolve(name) == (handler, model)


def test_a_pattern_never_hides_a_handler() -> None:
    models = {"*": "gpt_e", "gpt*": "gpt_b"}
    assert resolve("gpt_a", models) == ("gpt_a", None)
    assert resolve("gpt_a/x", models) == ("gpt_a", "x")
    assert resolve("gpt-4o", models) == ("gpt_b", "gpt-4o")
    assert resolve("llama", models) == ("gpt_e", "llama")


def test_an_exact_name_redirects_a_handler() -> None:
    models = {"gpt_a": "gpt_b", "gpt_a/gpt-5": "gpt_b/{model}"}
    assert resolve("gpt_a", models) == ("gpt_b", None)
    assert resolve("gpt_a/gpt-5", models) == ("gpt_b", "gpt_a/gpt-5")
    assert resolve("gpt_a/gpt-4o", models) == ("gpt_a", "gpt-4o")


def test_wildcards_do_not_count_and_the_first_of_two_alike_wins() -> None:
    assert resolve("abcd", {"*b**d*": "gpt_a", "abc*": "gpt_b"}) == ("gpt_b", "abcd")
    assert resolve("abcd", {"ab*": "gpt_a", "*cd": "gpt_b"}) == ("gpt_a", "abcd")


@given(st.text(max_size=12))
def test_without_aliases_the_first_slash_decides(name: str) -> None:
    assert (
        resolve(name, {})
        == split_model(name)
        == ModelTarget(name.split("/")[0], name[len(name.split("/")[0]) + 1 :] or None)
    )


@given(st.text(alphabet=".+()^$|\\{}-a", min_size=1, max_size=8))
def test_other_characters_of_a_pattern_stand_for_themselves(text: str) -> None:
    alias = ModelAlias(f"{text}*", "gpt_a")
    assert alias.matches(text)
    assert not alias.matches(f"b{text}")


def test_a_pattern_of_many_wildcards_costs_a_client_nothing() -> None:
    alias = ModelAlias("*-*-*-*-*x", "gpt_a")
    start = time.process_time()
    assert not alias.matches("-" * 150)
    assert time.process_time() - start < 0.5


def test_names_follow_the_configuration() -> None:
    configs = [Config(models={"fast": "gpt_e", "claude-*": "gpt_b"})]
    names = ModelNames(lambda: configs[-1], HANDLERS.__contains__)
    assert names.aliases() == {"fast": ("gpt_e", None)}
    assert names.resolve("claude-x") == ("gpt_b", "claude-x")
    configs.append(Config(models={"claude-*": "gpt_a"}))
    assert names.aliases() == {}
    assert names.resolve("claude-x") == ("gpt_a", "claude-x")


@pytest.mark.parametrize(
    ("name", "target", "error"),
    [
        ("x", "", 'must be "HANDLER" or "HANDLER/MODEL"'),
        ("x", "gpt_a/", 'must be "HANDLER" or "HANDLER/MODEL"'),
        ("x", "/gpt-5", 'must be "HANDLER" or "HANDLER/MODEL"'),
        ("x", "{model}", 'must be "HANDLER" or "HANDLER/MODEL"'),
        ("x", "gpt_a/{name}", "unknown placeholder {name}; there are: {model}, {default}"),
        ("x", "gpt_a/a-{default}", "{default} must stand alone after the slash"),
        ("claude-[34]", "gpt_b", "brackets are not supported in a pattern"),
        (" x", "gpt_b", "the name must be a text of one line"),
        ("", "gpt_b", "the name must be a text of one line"),
    ],
)
def test_invalid_aliases(name: str, target: str, error: str) -> None:
    with pytest.raises(ValueError, match="^" + error.replace("{", r"\{").replace("}", r"\}")):
        ModelAlias(name, target)


def test_flaws_have_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text('[models]\nfast = "gpt_a"\n"claude-*" = "nobody_here"\n[handlers.gpt_a]\nfallback = ["gpt_bb"]\n')
    flaws = list(find_config_flaws(load_config(path, {}).config, HANDLERS))
    assert [flaw.partition(";")[0] for flaw in flaws] == [
        f"{path}:5: [handlers.gpt_a] fallback: unknown handler 'gpt_bb'",
        f"{path}:3: [models] 'claude-*': unknown handler 'nobody_here'",
    ]


def test_unknown_handlers_are_flaws() -> None:
    assert list(find_unknown_targets({"a": "gpt_b", "claude-*": "gpt_bb/x"}, HANDLERS)) == [
        ("claude-*", "[models] 'claude-*': unknown handler 'gpt_bb'; did you mean 'gpt_b'?")
    ]
    config = Config(models={"x": "nobody_here"}, handlers={"gpt_a": {"fallback": ("gpt_bb",)}})
    assert [flaw.partition(":")[0] for flaw in find_config_flaws(config, HANDLERS)] == [
        "[handlers.gpt_a] fallback",
        "[models] 'x'",
    ]
