"""A chat assistant of five roles, each played by whatever handler of the host ``roles.toml`` names.

A answers the user. In the background B summarises the exchange, C extracts facts about the
user, D merges them into a profile, and E analyses the conversation now and then. The
handler ``sheets`` stores the messages in its log and the results in its states.
Start the host first (``handler-host serve --config examples/assistant/host.toml``), then::

    python examples/assistant/assistant.py --url http://127.0.0.1:8080 --user ann
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

ROLES = Path(__file__).with_name("roles.toml")
DEFAULT_STATES = {"summary": "", "profile": [], "analyses": []}
"""States of a user beside the conversation, with their first values."""
FACT = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "value": {"type": "string", "maxLength": 80}},
    "required": ["name", "value"],
    "additionalProperties": False,
}
FACTS = {
    "type": "object",
    "properties": {"facts": {"type": "array", "items": FACT, "maxItems": 12}},
    "required": ["facts"],
    "additionalProperties": False,
}
AS_FACTS = {"type": "json_schema", "json_schema": {"name": "facts", "schema": FACTS}}


class RoleFailed(Exception):
    """A role or ``sheets`` failed, or its response is invalid; the message gives the reason."""


class Assistant:
    """One user's conversation and its states."""

    def __init__(self, session: aiohttp.ClientSession, url: str, roles: dict[str, Any], user: str) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/v1"
        self._roles = roles
        self._user = user
        self.messages: list[dict[str, str]] = []
        self.summary: str = ""
        self.profile: list[dict[str, str]] = []
        self.analyses: list[str] = []
        self.played_by: dict[str, str] = {}
        """Last handler that responded for each role: the configured one or a fallback."""

    async def recall(self) -> None:
        """Load the user's messages and states."""
        await self._sheets("users.register")
        for row in (await self._sheets("log.tail", limit=100))["rows"]:
            self.messages.append({"role": row["event"], "content": row.get("text", "")})
        for name, default in DEFAULT_STATES.items():
            state = await self._sheets("states.get", name=name)
            setattr(self, name, state["value"] if state["found"] else default)

    async def respond(self, text: str) -> AsyncIterator[str]:
        """Yield the chunks of A's response, and store the exchange at the end."""
        self.messages.append({"role": "user", "content": text})
        response = ""
        try:
            async for chunk in self._stream("answer", self.messages[-self._roles["history"] :]):
                response += chunk
                yield chunk
        finally:
            if response:
                self.messages.append({"role": "assistant", "content": response})
                rows = [
                    {"user_id": self._user, "event": message["role"], "text": message["content"]}
                    for message in self.messages[-2:]
                ]
                await self._ask_sheets("log.append", {"rows": rows})
            else:
                self.messages.pop()

    async def reflect(self) -> list[str]:
        """Send the last exchange to B, C, D and E, and return the errors. The user need not wait for it."""
        work = [self._summarise(), self._learn()]
        if len(self.messages) % self._roles["analyse_every"] == 0:
            work.append(self._analyse())
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, RoleFailed):
                raise outcome
        for name in DEFAULT_STATES:
            await self._sheets("states.set", name=name, value=getattr(self, name))
        return [str(outcome) for outcome in outcomes if outcome is not None]

    async def _summarise(self) -> None:
        """Replace the summary by B's new one."""
        self.summary = await self._ask("summarise", f"Summary so far: {self.summary or 'none'}\n\n{self._exchange()}")

    async def _learn(self) -> None:
        """Extract facts from the user's last message by C, and merge them into the profile by D."""
        text = next(message["content"] for message in reversed(self.messages) if message["role"] == "user")
        facts = _facts(await self._ask("extract", text, response_format=AS_FACTS), "extract")
        if facts:
            request = f"Profile: {json.dumps({'facts': self.profile})}\nNew facts: {json.dumps({'facts': facts})}"
            self.profile = _facts(await self._ask("merge", request, response_format=AS_FACTS), "merge")

    async def _analyse(self) -> None:
        """Add E's analysis of the last 20 messages."""
        talk = "\n".join(f"{message['role']}: {message['content']}" for message in self.messages[-20:])
        self.analyses.append(await self._ask("analyse", talk))

    def _exchange(self) -> str:
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.messages[-2:])

    def _request(self, role: str, messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
        settings = self._roles[role]
        profile = ", ".join(f"{fact['name']}: {fact['value']}" for fact in self.profile) or "nothing"
        prompt = settings["prompt"].strip().format(profile=profile, summary=self.summary or "nothing")
        return {
            "model": settings["model"],
            "max_tokens": settings["max_tokens"],
            "messages": [{"role": "system", "content": prompt}, *messages],
            **more,
        }

    async def _ask(self, role: str, text: str, **more: Any) -> str:
        """Return a role's whole response."""
        body = self._request(role, [{"role": "user", "content": text}], **more)
        async with self._session.post(f"{self._url}/chat/completions", json=body) as response:
            content = await self._checked(role, response)
            return str(content["choices"][0]["message"]["content"] or "").strip()

    async def _stream(self, role: str, messages: list[dict[str, str]]) -> AsyncIterator[str]:
        """Yield the chunks of a role's response."""
        body = self._request(role, messages, stream=True)
        async with self._session.post(f"{self._url}/chat/completions", json=body) as response:
            if response.status != 200:
                await self._checked(role, response)
            self.played_by[role] = response.headers["X-Handler"]
            async for line in response.content:
                data = line.decode().strip().removeprefix("data: ")
                if data.startswith("{"):
                    chunk = json.loads(data)
                    if "error" in chunk:
                        raise RoleFailed(f"{role}: {chunk['error']['message']}")
                    for choice in chunk["choices"]:
                        yield choice["delta"].get("content") or ""

    async def _checked(self, role: str, response: aiohttp.ClientResponse) -> Any:
        content = await response.json()
        if response.status != 200:
            raise RoleFailed(f"{role}: {content['error']['message']} ({response.status})")
        self.played_by[role] = response.headers["X-Handler"]
        return content

    async def _sheets(self, operation: str, **request: Any) -> Any:
        """Dispatch an operation of ``sheets`` for this user."""
        return await self._ask_sheets(operation, {"user_id": self._user, **request})

    async def _ask_sheets(self, operation: str, request: dict[str, Any]) -> Any:
        async with self._session.post(f"{self._url}/handlers/sheets/{operation}", json=request) as response:
            content = await response.json()
            if response.status != 200:
                raise RoleFailed(f"{operation}: {content['error']['message']} ({response.status})")
            return content


def _facts(text: str, role: str) -> list[dict[str, str]]:
    """Return the facts of a response; a small model's JSON may be truncated."""
    try:
        facts = json.loads(text)["facts"]
        return [{"name": str(fact["name"]), "value": str(fact["value"])} for fact in facts]
    except (ValueError, TypeError, KeyError) as error:
        raise RoleFailed(f"{role}: not the JSON that was asked for: {text[:80]!r}") from error


async def lines(arguments: list[str]) -> AsyncIterator[str]:
    """Yield the user's lines: the arguments, or else lines from the terminal."""
    for text in arguments:
        print(f"you> {text}")
        yield text
    while not arguments:
        line = await asyncio.to_thread(_read_line)
        if line is None:
            return
        if line.strip():
            yield line.strip()


def _read_line() -> str | None:
    try:
        return input("you> ")
    except EOFError:
        return None


async def talk(arguments: argparse.Namespace) -> int:
    """Talk until the user's last line; return the exit status."""
    roles = tomllib.loads(arguments.roles.read_text())
    key = os.environ.get("HANDLER_HOST_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    failed = False
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        assistant = Assistant(session, arguments.url, roles, arguments.user)
        try:
            await assistant.recall()
        except (RoleFailed, aiohttp.ClientError) as error:
            print(f"  !! {error}", file=sys.stderr)
            return 1
        async for text in lines(arguments.say):
            print("  A> ", end="", flush=True)
            try:
                async for chunk in assistant.respond(text):
                    print(chunk, end="", flush=True)
                print()
                problems = await assistant.reflect()
            except (RoleFailed, aiohttp.ClientError) as error:
                problems = [f"{error}"]
                failed = True
                print()
            for problem in problems:
                print(f"  !! {problem}", file=sys.stderr)
        print(f"summary: {assistant.summary}")
        print("profile: " + json.dumps(assistant.profile, ensure_ascii=False))
        for analysis in assistant.analyses:
            print(f"analysis: {analysis}")
        print("played by: " + ", ".join(f"{role}={name}" for role, name in sorted(assistant.played_by.items())))
    return 1 if failed else 0


def main() -> int:
    """Run the program with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("HANDLER_HOST_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--roles", type=Path, default=ROLES, help="the model of each role (default: roles.toml)")
    parser.add_argument("--user", default="somebody", help="ID of the user (default: somebody)")
    parser.add_argument(
        "--say", action="append", default=[], metavar="TEXT", help="send this line instead of reading lines"
    )
    try:
        return asyncio.run(talk(parser.parse_args()))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
