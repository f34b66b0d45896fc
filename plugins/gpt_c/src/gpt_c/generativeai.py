"""The backend on google-generativeai 0.8.6, whose support has ended.

The SDK makes the request; aiohttp sends it, and the host's reader reads the response. None of the SDK's own transports
can be used: its asynchronous REST is a TypeError, its gRPC takes no address without TLS, its synchronous REST needs a
thread that cannot be cancelled, and its asynchronous stream holds each chunk back until the next one has come. There
will be no further release, so the one private method that is used here will not change.
"""

from __future__ import annotations

import json
import warnings
from typing import Any, cast

from gpt_c.backend import Question
from gpt_c.http_backend import HttpBackend
from gpt_c.schemas import to_google
from handler_host.plugin import InvalidInput

with warnings.catch_warnings():
    # Two of them: that the SDK's support has ended, which README.md says, and one on the version of Python.
    warnings.simplefilter("ignore", FutureWarning)
    from google.generativeai import protos
    from google.generativeai.generative_models import GenerativeModel

_CAMEL = {
    "include_thoughts": "includeThoughts",
    "thinking_budget": "thinkingBudget",
    "thinking_level": "thinkingLevel",
}
_JSON = {"including_default_value_fields": False, "use_integers_for_enums": False}


class GenerativeAi(HttpBackend):
    """``sdk = "google-generativeai"``."""

    lacks_schema_words = True

    def sdk_body(self, question: Question, contents: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the JSON of the request that the SDK makes of a question."""
        config = dict(question.config)
        # Options that are newer than the SDK's messages.
        newer = {"seed": config.pop("seed")} if "seed" in config else {}
        if question.schema is not None:
            config["response_schema"] = protos.Schema(to_google(question.schema, "response_format.json_schema.schema"))
        functions = [
            {**function, "parameters": to_google(function["parameters"], f"tools[{number}].function.parameters")}
            if "parameters" in function
            else function
            for number, function in enumerate(question.functions)
        ]
        tools = [protos.Tool(function_declarations=functions)] if functions else None
        try:
            model = GenerativeModel(question.model, system_instruction=question.system)
            request = model._prepare_request(
                contents=[protos.Content(content) for content in contents],
                generation_config=cast(Any, config),
                tools=tools,
                tool_config=protos.ToolConfig(question.tool_config) if question.tool_config else None,
            )
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the request does not fit google-generativeai: {error}") from error
        body: dict[str, Any] = json.loads(protos.GenerateContentRequest.to_json(request, **_JSON))
        del body["model"]
        if question.thinking is not None:
            newer["thinkingConfig"] = {_CAMEL[name]: value for name, value in question.thinking.items()}
        if newer:
            body.setdefault("generationConfig", {}).update(newer)
        return body
