"""The checks of LangChain, which has one interface for all providers."""

from harness import PDF, PNG, expect, fails, run, weather
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    city: str


weather_tool = tool(weather)


def text(message):
    return message.text if isinstance(message.text, str) else message.text()


def check(model, thinking=None, *, has_documents=True):
    """Run all checks with a chat model; ``thinking`` is one that reasons."""

    def tools():
        bound = (thinking or model).bind_tools([weather_tool])
        messages = [HumanMessage("task-call")]
        first = None
        for chunk in bound.stream(messages):
            first = chunk if first is None else first + chunk
        (call,) = first.tool_calls
        messages += [first, ToolMessage(weather_tool.invoke(call["args"]), tool_call_id=call["id"])]
        expect(text(bound.invoke(messages)))

    def attach(part):
        expect(text(model.invoke([HumanMessage([{"type": "text", "text": "see"}, part])])))

    def cancel():
        next(iter(model.stream("task-slow")))

    checks = {
        "plain": lambda: expect(text(model.invoke("hi"))),
        "stream": lambda: expect("".join(text(chunk) for chunk in model.stream("hi"))),
        "tools": tools,
        "structured": lambda: expect(model.with_structured_output(City).invoke("where").city, "Paris"),
        "image": lambda: attach({"type": "image", "base64": PNG, "mime_type": "image/png"}),
        "document": lambda: attach(
            {"type": "file", "base64": PDF, "mime_type": "application/pdf", "filename": "a.pdf"}
        ),
        "caching": lambda: expect(model.invoke("hi").usage_metadata["input_token_details"], "4321"),
        "errors": lambda: fails(lambda: model.invoke("task-fail")),
        "cancel": cancel,
    }
    if thinking is not None:
        checks["reasoning"] = lambda: expect(text(thinking.invoke("hi")))
    if not has_documents:
        del checks["document"]
        del checks["caching"]
    run(**checks)
