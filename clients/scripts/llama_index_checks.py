"""LlamaIndex: the model class of each protocol."""

import base64

from google.genai.types import GenerateContentConfig, ThinkingConfig
from harness import KEY, MODEL, PDF, PNG, PROTOCOL, URL, expect, fails, run, weather
from llama_index.core.llms import ChatMessage, DocumentBlock, ImageBlock, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.anthropic import Anthropic
from llama_index.llms.google_genai import GoogleGenAI
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    city: str


def make_model(*, reasons=False):
    match PROTOCOL:
        case "openai":
            effort = {"reasoning_effort": "low"} if reasons else {}
            return OpenAI(MODEL, api_base=f"{URL}/v1", api_key=KEY, max_retries=0, **effort)
        case "anthropic":
            thinking = (
                {"thinking_dict": {"type": "enabled", "budget_tokens": 2000}, "temperature": 1} if reasons else {}
            )
            return Anthropic(MODEL, base_url=URL, api_key=KEY, max_retries=0, max_tokens=4000, **thinking)
        case "gemini":
            thinking = ThinkingConfig(include_thoughts=True, thinking_budget=2000)
            config = GenerateContentConfig(thinking_config=thinking) if reasons else None
            return GoogleGenAI(
                MODEL, api_key=KEY, http_options={"base_url": URL}, max_retries=0, generation_config=config,
                context_window=100_000, file_mode="inline",
            )  # fmt: skip
        case _:
            return Ollama(MODEL, base_url=URL, context_window=8000, thinking=reasons)


model = make_model()


def user(content):
    return ChatMessage(role="user", content=content)


def send(*blocks, to=model):
    return to.chat([user(list(blocks))])


def text(content, to=model):
    return send(TextBlock(text=content), to=to).message.content


def stream():
    parts = [part.delta for part in model.stream_chat([user("hi")])]
    assert len(parts) > 2
    expect("".join(part or "" for part in parts))


def tools():
    tool = FunctionTool.from_defaults(weather)
    task = user("task-call")
    thinking = make_model(reasons=True)
    (*_, reply) = thinking.stream_chat_with_tools([tool], chat_history=[task])
    (call,) = thinking.get_tool_calls_from_response(reply)
    names = {"tool_call_id": call.tool_id, "name": call.tool_name}
    result = ChatMessage(role="tool", content=weather(**call.tool_kwargs), additional_kwargs=names)
    expect(thinking.chat_with_tools([tool], chat_history=[task, reply.message, result]).message.content)


def structured():
    expect(model.structured_predict(City, PromptTemplate("where")).city, "Paris")


def attach(block):
    expect(send(TextBlock(text="see"), block).message.content)


checks = {
    "plain": lambda: expect(text("hi")),
    "stream": stream,
    "tools": tools,
    "structured": structured,
    "image": lambda: attach(ImageBlock(image=base64.b64decode(PNG), image_mimetype="image/png")),
    "document": lambda: attach(
        DocumentBlock(data=base64.b64decode(PDF), document_mimetype="application/pdf", title="a.pdf")
    ),
    "reasoning": lambda: expect(text("hi", make_model(reasons=True))),
    "caching": lambda: expect(send(TextBlock(text="hi")).raw, "4321"),
    "errors": lambda: fails(lambda: text("task-fail")),
    "cancel": lambda: next(iter(model.stream_chat([user("task-slow")]))),
}
if PROTOCOL == "ollama":
    del checks["document"], checks["caching"]
run(**checks)
