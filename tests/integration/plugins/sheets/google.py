"""Google on loopback: the part of the Sheets API v4 that gspread calls, the token endpoint, and faults on demand.

A spreadsheet behaves as Google documents it where it matters here: a batch takes effect
as a whole or not at all, ``RAW`` keeps a text a text, an append finds the end of the
table at its range and inserts rows or overwrites what is below, nothing is written
outside the grid. Shapes are those that the real API answers to gspread 6.2.

Run as a program, it serves one spreadsheet, ``the-book``, until its standard input
ends: ``python -m tests.integration.plugins.sheets.google [SECONDS OF EACH CALL]`` prints its URL.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from aiohttp import web

BOOK = "the-book"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
MAX_CELL = 50_000

Act = Literal["status", "cut", "hang", "late"]


@dataclass
class Fault:
    """What goes wrong with the next calls that match.

    ``when`` is before or after the call takes effect; ``act`` is an answer with a status,
    a connection that is cut, or none at all for ``seconds``; late is a call that takes effect after so long.
    """

    match: str = ""
    """Is looked for in ``METHOD path``."""
    times: int = 1
    act: Act = "status"
    when: Literal["before", "after"] = "before"
    status: int = 503
    retry_after: str | None = None
    html: bool = False
    seconds: float = 0.0
    """Slept before the effect, or before the answer."""


@dataclass
class Sheet:
    """A worksheet: rows of cells; an empty text is an empty cell."""

    id: int
    title: str
    rows: int = 1000
    columns: int = 26
    cells: list[list[Any]] = field(default_factory=list)

    def get(self, row: int, column: int) -> Any:
        line = self.cells[row - 1] if row <= len(self.cells) else []
        return line[column - 1] if column <= len(line) else ""

    def put(self, row: int, column: int, value: Any) -> None:
        while len(self.cells) < row:
            self.cells.append([])
        line = self.cells[row - 1]
        line.extend([""] * (column - len(line)))
        line[column - 1] = value

    def blank(self, row: int) -> bool:
        return not any(cell != "" for cell in self.cells[row - 1]) if row <= len(self.cells) else True

    def table(self) -> list[dict[str, Any]]:
        """Return the rows by the names in the first one, as a person sees them."""
        if not self.cells:
            return []
        header = self.cells[0]
        return [
            {name: line[place] if place < len(line) else "" for place, name in enumerate(header) if name != ""}
            for line in self.cells[1:]
            if any(cell != "" for cell in line)
        ]


class Refusal(Exception):
    """An error as Google words it."""

    def __init__(self, status: int, message: str, name: str) -> None:
        super().__init__(message)
        self.status, self.message, self.name = status, message, name


def bad_range(text: str) -> Refusal:
    return Refusal(400, f"Unable to parse range: {text}", "INVALID_ARGUMENT")


class Google:
    """The servers, and what a test wants to know of them."""

    def __init__(self) -> None:
        self.url = ""
        self.sheets: list[Sheet] = [Sheet(0, "Sheet1")]
        self.faults: list[Fault] = []
        self.calls: list[str] = []
        """``METHOD path`` of each call to the API."""
        self.refused = 0
        self.scopes: set[str] = set()
        self.token_life = 3600
        self.revoked = False
        self.quota: int | None = None
        """Reads and writes a minute, each."""
        self.minute = 60.0
        """Seconds."""
        self.latency = 0.0
        self._tokens: dict[str, float] = {}
        self._times: dict[str, deque[float]] = {"Read": deque(), "Write": deque()}
        self._number = 0

    def sheet(self, title: str) -> Sheet:
        return next(sheet for sheet in self.sheets if sheet.title == title)

    def rows(self, title: str) -> list[dict[str, Any]]:
        return self.sheet(title).table() if any(sheet.title == title for sheet in self.sheets) else []

    def count(self, text: str) -> int:
        return sum(text in call for call in self.calls)

    @property
    def reads(self) -> int:
        return self.count("GET ")

    @property
    def writes(self) -> int:
        return len(self.calls) - self.reads

    def expire_tokens(self) -> None:
        self._tokens.clear()

    def fail(self, match: str = "", **fault: Any) -> Fault:
        self.faults.append(Fault(match, **fault))
        return self.faults[-1]

    def application(self) -> web.Application:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_post("/token", self._token)
        app.router.add_route("*", "/v4/spreadsheets/{tail:.+}", self._api)
        return app

    def key(self, private_key: str) -> dict[str, str]:
        """Return a service account's key for this server."""
        return {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "k1",
            "private_key": private_key,
            "client_email": "robot@p.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
            "universe_domain": "googleapis.com",
        }

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        fault = self._fault("POST /token")
        if fault is not None:
            return await self._act(fault, request)
        claims = json.loads(base64.urlsafe_b64decode(str(form["assertion"]).split(".")[1] + "=="))
        self.scopes.update(claims["scope"].split())
        if self.revoked or form["grant_type"] != GRANT:
            error = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            return web.json_response(error, status=400)
        self._number += 1
        token = f"token-{self._number}"
        self._tokens[token] = time.monotonic() + self.token_life
        return web.json_response({"access_token": token, "expires_in": self.token_life, "token_type": "Bearer"})

    async def _api(self, request: web.Request) -> web.StreamResponse:
        path = unquote(request.raw_path.partition("?")[0]).removeprefix("/v4/spreadsheets/")
        name = f"{request.method} {path}"
        self.calls.append(name)
        body = json.loads(await request.text() or "null")
        fault = self._fault(name)
        if self.latency:
            await asyncio.sleep(self.latency)
        if fault is not None and fault.act == "late":
            await asyncio.sleep(fault.seconds)
            fault = None
        if fault is not None and fault.when == "before":
            return await self._act(fault, request)
        try:
            self._admit(request)
            answer = self._run(request, path, body)
        except Refusal as refusal:
            self.refused += 1
            return _error(refusal.status, refusal.message, refusal.name)
        return await self._act(fault, request) if fault is not None else web.json_response(answer)

    def _fault(self, name: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.match in name:
                fault.times -= 1
                return fault
        return None

    async def _act(self, fault: Fault, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(fault.seconds)
        if fault.act != "status":
            assert request.transport is not None or fault.act == "hang"
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        self.refused += 1
        headers = {"Retry-After": fault.retry_after} if fault.retry_after is not None else {}
        if fault.html:
            return web.Response(status=fault.status, text="<h1>Error</h1>", content_type="text/html", headers=headers)
        names = {429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
        answer = _error(fault.status, "told to fail", names.get(fault.status, "INTERNAL"))
        answer.headers.update(headers)
        return answer

    def _admit(self, request: web.Request) -> None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._tokens.get(token, 0.0) <= time.monotonic():
            raise Refusal(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED")
        kind = "Read" if request.method == "GET" else "Write"
        times, now = self._times[kind], time.monotonic()
        while times and times[0] <= now - self.minute:
            times.popleft()
        if self.quota is not None and len(times) >= self.quota:
            raise Refusal(
                429,
                f"Quota exceeded for quota metric '{kind} requests' and limit '{kind} requests per minute per user' "
                "of service 'sheets.googleapis.com' for consumer 'project_number:1'.",
                "RESOURCE_EXHAUSTED",
            )
        times.append(now)

    def _run(self, request: web.Request, path: str, body: Any) -> dict[str, Any]:
        number, _, rest = path.partition("/")
        number, _, verb = number.partition(":")
        if number != BOOK:
            raise Refusal(404, "Requested entity was not found.", "NOT_FOUND")
        query = request.query
        match (request.method, verb, rest.partition("/")[0]):
            case ("GET", "", ""):
                return self._metadata()
            case ("POST", "batchUpdate", ""):
                return self._batch(body["requests"])
            case ("GET", "", "values:batchGet"):
                ranges = [self._read(text, query) for text in query.getall("ranges")]
                return {"spreadsheetId": BOOK, "valueRanges": ranges}
            case ("POST", "", "values:batchUpdate"):
                return self._write_all(body)
            case ("GET", "", "values"):
                return self._read(rest.partition("/")[2], query)
            case ("PUT", "", "values"):
                data = {"range": rest.partition("/")[2], "values": body["values"]}
                written: dict[str, Any] = self._write_all({**query, "data": [data]})["responses"][0]
                return written
            case ("POST", "", "values") if rest.endswith(":append"):
                return self._append(rest.partition("/")[2].removesuffix(":append"), query, body["values"])
        raise Refusal(404, f"not in this stand-in: {request.method} {path}", "NOT_FOUND")

    def _metadata(self) -> dict[str, Any]:
        return {
            "spreadsheetId": BOOK,
            "properties": {"title": "Book", "locale": "en_US", "timeZone": "Etc/GMT", "autoRecalc": "ON_CHANGE"},
            "sheets": [self._properties(sheet) for sheet in self.sheets],
            "spreadsheetUrl": f"https://docs.google.com/spreadsheets/d/{BOOK}/edit",
        }

    def _properties(self, sheet: Sheet) -> dict[str, Any]:
        grid = {"rowCount": sheet.rows, "columnCount": sheet.columns}
        return {
            "properties": {
                "sheetId": sheet.id,
                "title": sheet.title,
                "index": self.sheets.index(sheet),
                "sheetType": "GRID",
                "gridProperties": grid,
            }
        }

    def _batch(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        replies: list[dict[str, Any]] = []
        for request in requests:
            ((kind, value),) = request.items()
            if kind == "addSheet":
                wanted = value["properties"]
                if any(sheet.title == wanted["title"] for sheet in self.sheets):
                    raise Refusal(400, f"A sheet with the name {wanted['title']!r} already exists.", "INVALID_ARGUMENT")
                grid = wanted.get("gridProperties", {})
                number = max(sheet.id for sheet in self.sheets) + 1
                self.sheets.append(
                    Sheet(number, wanted["title"], grid.get("rowCount", 1000), grid.get("columnCount", 26))
                )
                replies.append({"addSheet": self._properties(self.sheets[-1])})
            elif kind == "deleteDimension":
                place = value["range"]
                sheet = next((sheet for sheet in self.sheets if sheet.id == place["sheetId"]), None)
                if sheet is None or place["dimension"] != "ROWS":
                    raise Refusal(400, f"No grid with id: {place['sheetId']}", "INVALID_ARGUMENT")
                sheet.rows -= place["endIndex"] - place["startIndex"]
                del sheet.cells[place["startIndex"] : place["endIndex"]]
                replies.append({})
            else:
                raise Refusal(400, f"not in this stand-in: {kind}", "INVALID_ARGUMENT")
        return {"spreadsheetId": BOOK, "replies": replies}

    def _read(self, text: str, query: Any) -> dict[str, Any]:
        sheet, top, left, bottom, right = self._range(text)
        formatted = query.get("valueRenderOption", "FORMATTED_VALUE") == "FORMATTED_VALUE"
        values: list[list[Any]] = []
        for row in range(top, min(bottom, len(sheet.cells)) + 1):
            line = [sheet.get(row, column) for column in range(left, min(right, len(sheet.cells[row - 1])) + 1)]
            while line and line[-1] == "":
                line.pop()
            values.append([_formatted(cell) if formatted else cell for cell in line])
        while values and not values[-1]:
            values.pop()
        answer: dict[str, Any] = {"range": _a1(sheet, top, left, bottom, right), "majorDimension": "ROWS"}
        if values:
            answer["values"] = values
        return answer

    def _append(self, text: str, query: Any, values: list[list[Any]]) -> dict[str, Any]:
        sheet, top, left, _, _ = self._range(text)
        _check(values, query.get("valueInputOption"))
        # The table is what hangs together at the range: it ends above the first blank row.
        end = top - 1
        while not sheet.blank(end + 1):
            end += 1
        answer: dict[str, Any] = {"spreadsheetId": BOOK}
        if end >= top:
            answer["tableRange"] = _a1(sheet, top, left, end, max(map(len, sheet.cells[:end])))
        if query.get("insertDataOption") == "INSERT_ROWS":
            sheet.cells[end:end] = [[] for _ in values]
            sheet.rows += len(values)
        else:
            sheet.rows = max(sheet.rows, end + len(values))
        answer["updates"] = self._put(sheet, end + 1, left, values, query.get("valueInputOption"))
        return answer

    def _write_all(self, body: dict[str, Any]) -> dict[str, Any]:
        places = [(self._range(data["range"]), data["values"]) for data in body["data"]]
        for (sheet, top, left, _, _), values in places:
            _check(values, body.get("valueInputOption"))
            width = max(map(len, values), default=0)
            if top + len(values) - 1 > sheet.rows or left + width - 1 > sheet.columns:
                raise Refusal(400, f"Range ({sheet.title}) exceeds grid limits.", "INVALID_ARGUMENT")
        responses = [
            self._put(sheet, top, left, values, body.get("valueInputOption"))
            for (sheet, top, left, _, _), values in places
        ]
        return {
            "spreadsheetId": BOOK,
            "totalUpdatedRows": sum(response["updatedRows"] for response in responses),
            "totalUpdatedColumns": sum(response["updatedColumns"] for response in responses),
            "totalUpdatedCells": sum(response["updatedCells"] for response in responses),
            "totalUpdatedSheets": len({sheet.id for (sheet, *_), _ in places}),
            "responses": responses,
        }

    def _put(self, sheet: Sheet, top: int, left: int, values: list[list[Any]], option: Any) -> dict[str, Any]:
        cells = 0
        for row, line in enumerate(values, top):
            for column, value in enumerate(line, left):
                if value is not None:
                    sheet.put(row, column, value if option == "RAW" else _entered(value))
                    cells += 1
        width = max(map(len, values), default=0)
        return {
            "spreadsheetId": BOOK,
            "updatedRange": _a1(sheet, top, left, top + len(values) - 1, left + width - 1),
            "updatedRows": len(values),
            "updatedColumns": width,
            "updatedCells": cells,
        }

    def _range(self, text: str) -> tuple[Sheet, int, int, int, int]:
        name, _, cells = text.rpartition("!") if "!" in text else (text, "", "")
        title = name[1:-1].replace("''", "'") if name[:1] == "'" else name
        sheet = next((sheet for sheet in self.sheets if sheet.title == title), None)
        found = re.fullmatch(r"([A-Z]*)(\d*)(:([A-Z]*)(\d*))?", cells)
        if sheet is None or found is None:
            raise bad_range(text)
        left, top, colon, right, bottom = found.groups()
        one = bool(left and top) and not colon
        return (
            sheet,
            int(top or 1),
            _column(left) if left else 1,
            int(top) if one else int(bottom or sheet.rows),
            _column(left) if one else (_column(right) if right else sheet.columns),
        )


def _check(values: list[list[Any]], option: Any) -> None:
    if option not in ("RAW", "USER_ENTERED"):
        raise Refusal(400, "'valueInputOption' is required but not specified", "INVALID_ARGUMENT")
    for line in values:
        for value in line:
            if isinstance(value, dict | list):
                raise Refusal(400, "Invalid values: no cell's value", "INVALID_ARGUMENT")
            if isinstance(value, str) and len(value) > MAX_CELL:
                text = "Your input contains more than the maximum of 50000 characters in a single cell."
                raise Refusal(400, text, "INVALID_ARGUMENT")


def _entered(value: Any) -> Any:
    """What typing a text makes of it; a formula's result here is its being one."""
    if not isinstance(value, str):
        return value
    if value.startswith(("=", "+")):
        return "#FORMULA"
    try:
        return json.loads(value)
    except ValueError:
        return value


def _formatted(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number


def _letters(number: int) -> str:
    text = ""
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(65 + rest) + text
    return text


def _a1(sheet: Sheet, top: int, left: int, bottom: int, right: int) -> str:
    title = sheet.title if re.fullmatch(r"[A-Za-z]\w*", sheet.title) else "'" + sheet.title.replace("'", "''") + "'"
    end = "" if (top, left) == (bottom, right) else f":{_letters(right)}{bottom}"
    return f"{title}!{_letters(left)}{top}{end}"


def _error(status: int, message: str, name: str) -> web.Response:
    return web.json_response({"error": {"code": status, "message": message, "status": name}}, status=status)


@asynccontextmanager
async def serving(google: Google | None = None) -> AsyncIterator[Google]:
    """Run the stand-in on a free port."""
    google = google or Google()
    runner = web.AppRunner(google.application(), shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    google.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield google
    finally:
        await runner.cleanup()


async def main(latency: float) -> None:
    async with serving() as google:
        google.latency = latency
        print(google.url, flush=True)  # noqa: T201 - it is a program then
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0))
