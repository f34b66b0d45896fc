"""The model behind the stand-in: it reads the task in the prompt, and calls the tools that the client offers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

WORD = "HELLO-4711"
"""The content of the file that the task `write` creates."""
DONE = "The task is finished: 7391."
"""The last text of every task; a client must show it."""
FINAL = "7391"
THOUGHT = "I think about the next step."
SIGNATURE = "c2lnbmF0dXJlLW9mLXRoZS1zdGFuZC1pbg=="
"""The signature or encrypted content of each reasoning block, which clients must send back."""
CACHED_TOKENS = 4321
"""The cached tokens of each response, a number that is found again in a client's own usage."""
SOURCE = "https://source.example/7391"
"""The page that the provider's search finds."""
TOO_LONG = "the prompt has 300000 tokens, 8877 more than the context"
"""The words of the error for the task `fail`."""

ANY_OBJECT = {"type": "object", "properties": {"city": {"type": "string"}}}
"""Schema of JSON mode without a schema: clients describe the object in the prompt, which the model does not read."""

LONG_TURNS = 24
"""The calls of the task `long`, each of another file."""
ODD_TOOL = "lookup"
"""The part of the name of the tool that the task `odd` calls."""

COMPACTION = re.compile("CONTEXT CHECKPOINT COMPACTION|state_snapshot|detailed summary of the conversation")
"""A part of the prompts by which clients ask for the summary of a session."""

TASK = re.compile(r"task-(write|look|fail|slow|call|search|both|long|odd|retry)(?: ([^\s\"'`<>]+))?")
"""A task in a prompt, and the path of its file."""

# Tools by the clients' names for them, the best first; the last ones are shells.
WRITERS = ("Write", "write_file", "write", "write_to_file", "apply_patch", "editor")
READERS = ("view_image", "Read", "read_file", "read", "read_files", "read_many_files")
SEARCHERS = ("WebSearch", "google_web_search")
"""Tools of clients that send a request of their own with the provider's search."""
SHELLS = ("exec", "exec_command", "shell", "bash", "run_commands", "execute_command")


@dataclass(frozen=True)
class Call:
    """One call of a tool; a custom tool takes free text instead of arguments."""

    name: str
    arguments: dict[str, Any]
    text: str | None = None


@dataclass(frozen=True)
class Reply:
    """A response of the model, in no protocol's form."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    searched: bool = False
    """Whether the provider has searched the web before the text."""
    compacted: bool = False
    """Whether the text is the summary of a session."""


@dataclass
class Question:
    """The parts of a request that the model reads, in no protocol's form."""

    streamed: bool
    texts: list[str] = field(default_factory=list)
    tools: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    """The schema of each tool by name; None for a custom tool."""
    results: int = 0
    media: int = 0
    """Images and documents, in messages and in results of tools."""
    schema: dict[str, Any] | None = None
    forced: str | None = None
    """The tool that must be called."""
    can_search: bool = False
    """Whether the provider's own search is among the tools."""

    @property
    def task(self) -> tuple[str, str]:
        """Return the name of the task and the path of its file."""
        tasks = [match for text in self.texts for match in TASK.finditer(text)]
        return (tasks[-1][1], (tasks[-1][2] or "").rstrip(".,:;")) if tasks else ("", "")

    @property
    def is_summarized(self) -> bool:
        """Whether the summary of the session follows the task: the client has compacted it in the middle."""
        last = max((number for number, text in enumerate(self.texts) if TASK.search(text)), default=0)
        return any(DONE in text for text in self.texts[last:])


def decide(question: Question) -> Reply:
    """Return the model's response to a request."""
    if question.forced in question.tools:
        return Reply(calls=(Call(str(question.forced), instance(question.tools[str(question.forced)] or {})),))
    if question.schema is not None:
        return Reply(json.dumps(instance(question.schema)))
    if question.texts and COMPACTION.search(question.texts[-1]):
        return Reply(DONE, compacted=True)
    name, path = question.task
    if question.is_summarized:
        return Reply(DONE)
    if question.tools and (reply := _next_call(question, name, path)):
        return reply
    if question.can_search and (name == "search" or not question.tools):
        return Reply(DONE, searched=True)
    if name == "write" and question.results == 0 and not question.tools:  # aider: edits are in the text
        return Reply(f"{path}\n```\n<<<<<<< SEARCH\n=======\n{WORD}\n>>>>>>> REPLACE\n```\n\n{DONE}")
    return Reply(DONE)


def _next_call(question: Question, name: str, path: str) -> Reply | None:
    """Return the tool calls of this turn of a task; None if the client has run them all."""
    tools, turn = question.tools, question.results
    rare = {"search": "WebSearch", "odd": f"mcp__odd__{ODD_TOOL}"}.get(name)
    if rare and "ToolSearch" in tools:  # Claude Code loads rare tools so
        if turn == 0:
            return Reply(calls=(Call("ToolSearch", {"query": f"select:{rare}", "max_results": 1}),))
        turn -= 1
    match name, turn:
        case "search", 0 if any(tool in tools for tool in SEARCHERS):
            return _call(question, SEARCHERS, path)
        case "odd", 0:
            return _call(question, (*(tool for tool in tools if ODD_TOOL in tool), "exec"), path)
        case "call", 0:
            first = next(iter(tools))
            return Reply(calls=(Call(first, instance(tools[first] or {})),))
        case "look", 0 if question.media == 0:
            return _call(question, (*READERS, "exec"), path)
        case "write", 0:
            return _call(question, (*WRITERS, *SHELLS), path)
        case "write", 1:
            return _call(question, (*READERS[1:], *SHELLS), path)
        case "both", 0:
            replies = [_call(question, (*READERS[1:], *SHELLS), f"{path}/{number}.txt") for number in range(2)]
            return Reply(replies[0].text, replies[0].calls + replies[1].calls)
        case "long", _ if turn < LONG_TURNS:
            return _call(question, (*READERS[1:], *SHELLS), f"{path}/{turn}.txt")
    return None


def _call(question: Question, names: tuple[str, ...], path: str) -> Reply:
    offered = [name for name in names if name in question.tools]
    if not offered:
        return Reply(f"no tool of {', '.join(names)} among {', '.join(question.tools)}")
    name, schema = offered[0], question.tools[offered[0]]
    is_write = question.task[0] == "write" and question.results == 0
    command = f"printf '%s\\n' {WORD} > {path}" if is_write else f"cat {path}"
    patch = f"*** Begin Patch\n*** Add File: {path}\n+{WORD}\n*** End Patch\n"
    if name == "exec":  # Codex: a script that calls the other tools
        shell = f"text((await tools.exec_command({{cmd: {json.dumps(command)}}})).output)"
        image = f"image(await tools.view_image({{path: {json.dumps(path)}}}))"
        odd = f"text(JSON.stringify(await tools.mcp__odd__{ODD_TOOL}({{query: 'Paris', kind: 'page'}})))"
        patch = {"look": image, "odd": odd}.get(question.task[0], shell)
    if schema is None:
        return Reply("I call a tool.", (Call(name, {}, patch),))
    values: dict[str, Any] = {
        "command": command,
        "cmd": command,
        "commands": [command],
        "content": WORD,
        "file_text": WORD,
        "query": "the number",
    }
    values |= {"input": patch, "patch": patch, "patchText": patch, "paths": [path], "files": [{"path": path}]}
    properties = schema.get("properties") or {}
    arguments = {}
    for key in schema.get("required") or properties:
        is_path = "path" in key.lower() and key not in values
        arguments[key] = path if is_path else values.get(key, instance(properties.get(key) or {}, schema))
    return Reply("I call a tool.", (Call(name, arguments),))


def instance(schema: dict[str, Any] | bool, root: dict[str, Any] | None = None) -> Any:
    """Return a value that is valid for a JSON schema, as far as clients use schemas."""
    if not isinstance(schema, dict):  # true: any value
        return "Paris"
    root = root or schema
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return {} if target is root else instance(target, root)
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return instance(schema[key][0], root)
    if "const" in schema or schema.get("enum"):
        return schema.get("const", (schema.get("enum") or [None])[0])
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        properties = schema.get("properties") or {}
        return {key: instance(properties.get(key) or {}, root) for key in schema.get("required") or properties}
    if kind == "array":
        return [instance(schema.get("items") or {}, root)] * max(1, schema.get("minItems", 1))
    return {"integer": 3, "number": 3.5, "boolean": True, "null": None}.get(kind, "Paris")
