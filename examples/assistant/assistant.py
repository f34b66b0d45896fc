"""A chat assistant of five roles, each played by whatever handler of the host ``roles.toml`` names.

A answers the user. Behind it B summarises the exchange, C extracts facts about the
user, D merges them into a profile, and E analyses the conversation now and then. The
handler ``sheets`` remembers all of it: what was said in its log, what was found in its
states. Start the host first (``handler-host serve --config examples/assistant/host.toml``), then::

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
KEPT = {"summary": "", "profile": [], "analyses": []}
"""What is kept of a user beside the conversation, with what it is at first."""
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
    """A role, or what remembers, has given no answer that is of use; the message says why."""


class Assistant:
    """One user's conversation, and what is remembered of it."""

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
        """Which handler has answered for each role last: the one that it names, or a fallback of that."""

    async def recall(self) -> None:
        """Take up what is known of the user."""
        await self._sheets("users.register")
        for row in (await self._sheets("log.tail", limit=100))["rows"]:
            self.messages.append({"role": row["event"], "content": row.get("text", "")})
        for name, at_first in KEPT.items():
            state = await self._sheets("states.get", name=name)
            setattr(self, name, state["value"] if state["found"] else at_first)

    async def say(self, text: str) -> AsyncIterator[str]:
        """Yield A's answer as it comes, and remember it when it is whole."""
        self.messages.append({"role": "user", "content": text})
        response = ""
        try:
            async for piece in self._stream("answer", self.messages[-self._roles["history"] :]):
                response += piece
                yield piece
        finally:
            if response:
                self.messages.append({"role": "assistant", "content": response})
                said = [
                    {"user_id": self._user, "event": message["role"], "text": message["content"]}
                    for message in self.messages[-2:]
                ]
                await self._ask_sheets("log.append", {"rows": said})
            else:
                self.messages.pop()

    async def reflect(self) -> list[str]:
        """Let B to E look at the last exchange; return what has failed. The user need not wait for it."""
        work = [self._summarise(), self._learn()]
        if len(self.messages) % self._roles["analyse_every"] == 0:
            work.append(self._analyse())
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, RoleFailed):
                raise outcome
        for name in KEPT:
            await self._sheets("states.set", name=name, value=getattr(self, name))
        return [str(outcome) for outcome in outcomes if outcome is not None]

    async def _summarise(self) -> None:
        """Let B write the summary anew."""
        self.summary = await self._ask("summarise", f"Summary so far: {self.summary or 'none'}\n\n{self._exchange()}")

    async def _learn(self) -> None:
        """Let C find facts in what the user has said, and D merge them into the profile."""
        said = next(message["content"] for message in reversed(self.messages) if message["role"] == "user")
        facts = _facts(await self._ask("extract", said, response_format=AS_FACTS), "extract")
        if facts:
            request = f"Profile: {json.dumps({'facts': self.profile})}\nNew facts: {json.dumps({'facts': facts})}"
            self.profile = _facts(await self._ask("merge", request, response_format=AS_FACTS), "merge")

    async def _analyse(self) -> None:
        """Let E look at the whole conversation."""
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
        """Return a role's whole answer."""
        body = self._request(role, [{"role": "user", "content": text}], **more)
        async with self._session.post(f"{self._url}/chat/completions", json=body) as response:
            content = await self._checked(role, response)
            return str(content["choices"][0]["message"]["content"] or "").strip()

    async def _stream(self, role: str, messages: list[dict[str, str]]) -> AsyncIterator[str]:
        """Yield a role's answer as it comes."""
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
        """Ask for an operation of ``sheets`` on what is this user's."""
        return await self._ask_sheets(operation, {"user_id": self._user, **request})

    async def _ask_sheets(self, operation: str, request: dict[str, Any]) -> Any:
        async with self._session.post(f"{self._url}/handlers/sheets/{operation}", json=request) as response:
            content = await response.json()
            if response.status != 200:
                raise RoleFailed(f"{operation}: {content['error']['message']} ({response.status})")
            return content


def _facts(text: str, role: str) -> list[dict[str, str]]:
    """Return the facts of an answer; a small model may be cut off in the middle of its JSON."""
    try:
        facts = json.loads(text)["facts"]
        return [{"name": str(fact["name"]), "value": str(fact["value"])} for fact in facts]
    except (ValueError, TypeError, KeyError) as error:
        raise RoleFailed(f"{role}: not the JSON that was asked for: {text[:80]!r}") from error


async def lines(said: list[str]) -> AsyncIterator[str]:
    """Yield what the user says: the arguments, or else what is typed."""
    for text in said:
        print(f"you> {text}")
        yield text
    while not said:
        line = await asyncio.to_thread(_typed)
        if line is None:
            return
        if line.strip():
            yield line.strip()


def _typed() -> str | None:
    try:
        return input("you> ")
    except EOFError:
        return None


async def talk(arguments: argparse.Namespace) -> int:
    """Talk until the user has said everything; return the exit status."""
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
                async for piece in assistant.say(text):
                    print(piece, end="", flush=True)
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
    """Read the arguments, and talk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("HANDLER_HOST_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--roles", type=Path, default=ROLES, help="who plays which role (default: roles.toml)")
    parser.add_argument("--user", default="somebody", help="who talks (default: somebody)")
    parser.add_argument("--say", action="append", default=[], metavar="TEXT", help="say this instead of asking for it")
    try:
        return asyncio.run(talk(parser.parse_args()))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
