"""DSPy, with its own clients and LiteLLM."""

import base64

import dspy
from harness import KEY, MODEL, PDF, PNG, PROTOCOL, URL, expect, fails, run, weather

ADDRESSES = {
    "openai": ("openai/", f"{URL}/v1"),
    "anthropic": ("anthropic/", f"{URL}/v1"),  # its own client adds /messages
}
PREFIX, ADDRESS = ADDRESSES[PROTOCOL]


def make_model(**options):
    return dspy.LM(f"{PREFIX}{MODEL}", api_base=ADDRESS, api_key=KEY, cache=False, num_retries=0, **options)


model = make_model()
dspy.configure(lm=model, adapter=dspy.JSONAdapter())


class Find(dspy.Signature):
    """Find the city."""

    question: str = dspy.InputField()
    city: str = dspy.OutputField()


class Call(dspy.Signature):
    """Call a tool."""

    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    calls: dspy.ToolCalls = dspy.OutputField()


class See(dspy.Signature):
    """Find the city in a picture."""

    picture: dspy.Image = dspy.InputField()
    city: str = dspy.OutputField()


class Read(dspy.Signature):
    """Find the city in a paper."""

    paper: dspy.File = dspy.InputField()
    city: str = dspy.OutputField()


def picture():
    return dspy.Image(base64.b64decode(PNG))


def tools():
    with dspy.context(adapter=dspy.ChatAdapter(use_native_function_calling=True)):
        (call,) = dspy.Predict(Call)(question="task-call", tools=[dspy.Tool(weather)]).calls.tool_calls
    expect(call.execute(functions=[dspy.Tool(weather)]), "rain in Paris")


def document():
    paper = dspy.File.from_bytes(base64.b64decode(PDF), filename="a.pdf", mime_type="application/pdf")
    # Its own client takes no documents of Anthropic's: LiteLLM sends them, and adds /v1 to the address.
    address = URL if PROTOCOL == "anthropic" else ADDRESS
    with dspy.context(lm=model.copy(api_base=address)):
        expect(dspy.Predict(Read)(paper=paper).city, "Paris")


checks = {
    "plain": lambda: expect(model("hi")[0]),
    "tools": tools,
    "structured": lambda: expect(dspy.Predict(Find)(question="where").city, "Paris"),
    "image": lambda: expect(dspy.Predict(See)(picture=picture()).city, "Paris"),
    "document": document,
    "reasoning": lambda: expect(make_model(reasoning_effort="low")("hi")),
    "errors": lambda: fails(lambda: model("task-fail")),
}
run(**checks)
