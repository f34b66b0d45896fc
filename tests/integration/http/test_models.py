"""``[models]``: a client's own names reach handlers, in all protocols."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import AuthConfig
from handler_host.config.loader import hash_key
from handler_host.plugin.errors import ConfigError
from tests.integration.http.serving import PARROT, Host, events, running
from tests.support import install_plugin

MODELS = {"fast": "parrot", "claude-*": "parrot", "gpt-5*": "parrot/served-{model}", "gemini-*": "parrot/{default}"}
ANTHROPIC = {"anthropic-version": "2023-06-01"}
GOOGLE = {"x-goog-api-client": "google-genai-sdk/3.6.1"}


@asynccontextmanager
async def parrots(root: Path, **options: Any) -> AsyncIterator[Host]:
    for name in ("parrot", "macaw"):
        install_plugin(root, name, PARROT)
    async with running(root, **{"models": MODELS, **options}) as host:
        yield host


async def test_every_protocol_resolves_names(tmp_path: Path) -> None:
    async with parrots(tmp_path) as host:
        message = {"messages": [{"role": "user", "content": "MODEL"}]}
        bodies: dict[str, dict[str, Any]] = {
            "/v1/chat/completions": {"model": "gpt-5.5", **message},
            "/v1/messages": {"model": "claude-opus-4-8", "max_tokens": 9, **message},
            "/v1/responses": {"model": "gpt-5.5", "input": "MODEL"},
            "/v1beta/models/gemini-3-flash-preview:generateContent": {"contents": [{"parts": [{"text": "MODEL"}]}]},
        }
        said = {}
        for path, body in bodies.items():
            async with host.ask("POST", path, data=json.dumps(body)) as response:
                assert (response.status, response.headers["X-Handler"]) == (200, "parrot")
                said[path] = await response.json()
        paths = list(bodies)
        assert said[paths[0]]["choices"][0]["message"]["content"] == "served-gpt-5.5"
        assert said[paths[1]]["content"][0]["text"] == "claude-opus-4-8"
        assert said[paths[2]]["output"][0]["content"][0]["text"] == "served-gpt-5.5"
        assert said[paths[3]]["candidates"][0]["content"]["parts"][0]["text"] == "None"
        # The name of the request, not that of the handler, where the handler names no model.
        assert said[paths[1]]["model"] == "claude-opus-4-8"
        streamed = {"model": "gpt-5", "stream": True, **message}
        async with host.ask("POST", "/v1/chat/completions", data=json.dumps(streamed)) as response:
            texts = [data["choices"][0]["delta"].get("content") for _, data in events(await response.text())[:-1]]
        assert "served-gpt-5" in texts


@pytest.mark.parametrize("path", ["parrot/big", "parrot%2Fbig", "models%2Fparrot%2Fbig", "parrot%2fbig"])
@pytest.mark.parametrize("version", ["v1beta", "v1"])
async def test_slashes_of_gemini_paths(tmp_path: Path, version: str, path: str) -> None:
    async with parrots(tmp_path, models={"models/parrot/*": "parrot/big"}) as host:
        body = json.dumps({"contents": [{"parts": [{"text": "MODEL"}]}]})
        url = f"/{version}/models/{path}:generateContent"
        request = (
            f"POST {url} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        status, _, answer = await host.raw(request.encode())
        assert status == 200, answer
        assert json.loads(answer)["candidates"][0]["content"]["parts"][0]["text"] == "big"


async def test_lists_have_exact_names_in_all_shapes(tmp_path: Path) -> None:
    async with parrots(tmp_path) as host:
        _, listed = await host.json("GET", "/v1/models")
        assert [model["id"] for model in listed["data"]] == ["macaw", "parrot", "fast"]
        _, listed = await host.json("GET", "/v1/models", headers=ANTHROPIC)
        assert [(model["id"], model["display_name"]) for model in listed["data"]][-1] == ("fast", "fast")
        for path, headers in (("/v1/models", GOOGLE), ("/v1beta/models", {})):
            _, listed = await host.json("GET", path, headers=headers)
            assert [model["name"] for model in listed["models"]] == ["models/macaw", "models/parrot", "models/fast"]
        for headers, field in (({}, "id"), (ANTHROPIC, "id"), (GOOGLE, "name")):
            _, model = await host.json("GET", "/v1/models/claude-opus-4-8", headers=headers)
            assert model[field].removeprefix("models/") == "claude-opus-4-8"


async def test_gemini_lists_only_methods_that_the_handler_has(tmp_path: Path) -> None:
    async with parrots(tmp_path) as host:
        _, before = await host.json("GET", "/v1beta/models/parrot")
        assert "countTokens" in before["supportedGenerationMethods"], "unknown before the first activation"
        body = '{"model": "parrot", "messages": [{"role": "user", "content": "a"}]}'
        await host.json("POST", "/v1/chat/completions", data=body)
        _, after = await host.json("GET", "/v1beta/models/parrot")
        assert after["supportedGenerationMethods"] == ["generateContent", "streamGenerateContent"]


async def test_a_key_needs_the_right_to_the_target(tmp_path: Path) -> None:
    consumers = json.dumps({"consumers": {"one": {"hash": hash_key("key-1"), "handlers": ["macaw"]}}})
    async with parrots(tmp_path, models={**MODELS, "mine": "macaw"}, auth=AuthConfig(consumers=consumers)) as host:
        key = {"Authorization": "Bearer key-1"}
        _, listed = await host.json("GET", "/v1/models", headers=key)
        assert [model["id"] for model in listed["data"]] == ["macaw", "mine"]
        body = {"model": "claude-opus-4-8", "messages": [{"role": "user", "content": "hello"}]}
        status, refused = await host.json("POST", "/v1/chat/completions", data=json.dumps(body), headers=key)
        assert (status, refused["error"]["code"]) == (404, "model_not_found")
        assert refused["error"]["message"].startswith(
            "unknown model 'claude-opus-4-8'; handlers that chat: macaw, mine (GET"
        )
        status, _ = await host.json("GET", "/v1/models/fast", headers=key)
        assert status == 404
        body["model"] = "mine"
        status, _ = await host.json("POST", "/v1/chat/completions", data=json.dumps(body), headers=key)
        assert status == 200


async def test_an_unknown_target_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[models\] 'fast': unknown handler 'parot'; did you mean 'parrot'\?"):
        async with parrots(tmp_path, models={"fast": "parot"}):
            pass


async def test_lists_have_facts_about_models(tmp_path: Path) -> None:
    facts = {
        "big": {"context_length": 1000, "max_output_tokens": 100, "input": ["text"], "capabilities": ["reasoning"]},
        "small": {},
    }
    handlers = {"parrot": {"model": "big", "known_models": facts}}
    async with parrots(tmp_path, handlers=handlers, models={"claude-x": "parrot/small", "mine": "parrot"}) as host:
        _, listed = await host.json("GET", "/v1/models")
        lengths = {model["id"]: model.get("context_length") for model in listed["data"]}
        assert lengths == {
            "macaw": None,
            "parrot": 1000,
            "parrot/big": 1000,
            "parrot/small": None,
            "claude-x": None,
            "mine": 1000,
        }
        _, model = await host.json("GET", "/v1beta/models/mine")
        assert (model["inputTokenLimit"], model["outputTokenLimit"], model["thinking"]) == (1000, 100, True)
        _, model = await host.json("GET", "/v1beta/models/macaw")
        assert "thinking" not in model
        _, model = await host.json("GET", "/v1/models/parrot", headers=ANTHROPIC)
        assert model["max_input_tokens"] == 1000
        _, status = await host.json("GET", "/v1/handlers/parrot")
        assert status["default_model"] == "big"
        assert status["models"] == {"big": facts["big"], "small": {}}


async def test_tokens_are_counted_by_consumer_and_handler(tmp_path: Path) -> None:
    async with parrots(tmp_path, keys=("key-1",)) as host:
        key = {"Authorization": "Bearer key-1"}
        for streamed in (False, True):
            body = {"model": "fast", "stream": streamed, "messages": [{"role": "user", "content": "hello"}]}
            async with host.ask("POST", "/v1/chat/completions", data=json.dumps(body), headers=key) as response:
                await response.read()
        admin = {"Authorization": "Bearer the-admin-token"}
        async with host.ask("GET", "/metrics", headers=admin) as response:
            lines = [line for line in (await response.text()).splitlines() if line.startswith("handler_host_tokens_")]
        assert sorted(lines) == [
            f'handler_host_tokens_total{{consumer="key-1",handler="parrot",kind="{kind}",model=""}} {count}'
            for kind, count in (("input", "6.0"), ("output", "4.0"))
        ]
