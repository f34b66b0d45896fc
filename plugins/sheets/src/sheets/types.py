"""What operations take and answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1)]
Id = Text | int
"""Of a user; a number is kept as its text."""
AnyId = str | int
"""The same, or empty: of none."""
Limit = Annotated[int, Meta(ge=1, le=1000)]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of requests: a misspelt field is refused."""


class Keyed(_Request, frozen=True):
    """A request that may have a key: repeated with it, it is done once."""

    key: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class User(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row of the tab of users."""

    user_id: str
    name: str = ""
    status: str = ""
    registered_at: str = ""
    approved_at: str = ""
    approved_by: str = ""
    updated_at: str = ""
    fields: dict[str, Any] = {}
    """The further columns that are configured."""


class LogRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row of the log."""

    row_key: str
    at: str
    user_id: str = ""
    event: str = ""
    text: str = ""
    data: Any = None
    fields: dict[str, Any] = {}


class UserGet(_Request, frozen=True):
    """Which user."""

    user_id: Id


class UserAnswer(msgspec.Struct, frozen=True):
    """A user, or null, as the spreadsheet had it ``age`` seconds ago, with all that was changed here since."""

    user: User | None
    age: float


class UserRegister(_Request, frozen=True):
    """A user to add; one who is there already stays as they are."""

    user_id: Id
    name: str = ""
    fields: dict[str, Any] = {}


class UserRegistered(msgspec.Struct, frozen=True):
    """The user, and whether they are new."""

    user: User
    created: bool


class UserApprove(_Request, frozen=True):
    """Whom to approve, and who does it."""

    user_id: Id
    by: AnyId = ""


class UserUpdate(_Request, frozen=True):
    """What to change of a user; what is left out stays."""

    user_id: Id
    name: str | None = None
    status: str | None = None
    fields: dict[str, Any] = {}


class UserChanged(msgspec.Struct, frozen=True):
    """The user after it."""

    user: User


class UserList(_Request, frozen=True):
    """A page of users; ``cursor`` is the ``next`` of the page before."""

    status: str | None = None
    limit: Limit = 100
    cursor: Annotated[int, Meta(ge=0)] = 0


class UserPage(msgspec.Struct, frozen=True):
    """Users in the order of their rows; ``next`` is null on the last page."""

    users: list[User]
    total: int
    next: int | None
    age: float


class NewRow(_Request, frozen=True):
    """A row to append; ``at`` is now, if it is left out."""

    user_id: AnyId = ""
    event: str = ""
    text: str = ""
    data: Any = None
    at: str | None = None
    fields: dict[str, Any] = {}


class LogAppend(Keyed, frozen=True):
    """One row, by its fields, or many by ``rows``."""

    user_id: AnyId = ""
    event: str = ""
    text: str = ""
    data: Any = None
    at: str | None = None
    fields: dict[str, Any] = {}
    rows: Annotated[list[NewRow], Meta(max_length=10_000)] | None = None


class LogAppended(msgspec.Struct, frozen=True):
    """The rows are on disk, and will be in the spreadsheet exactly once, under these keys."""

    keys: list[str]
    pending: int
    """Rows and changes that wait to be written to Google; 0 for a local workbook."""


class LogTail(_Request, frozen=True):
    """How many rows, and of whom."""

    limit: Limit = 20
    user_id: AnyId | None = None


class LogRows(msgspec.Struct, frozen=True):
    """The newest rows, oldest first."""

    rows: list[LogRow]
    age: float


class StateKey(_Request, frozen=True):
    """Which state; those of the application itself have no user."""

    name: Text
    user_id: AnyId = ""


class StateAnswer(msgspec.Struct, frozen=True):
    """A state's value; null where there is none."""

    value: Any
    found: bool
    updated_at: str
    age: float


class StateSet(_Request, frozen=True):
    """A state and its value: any JSON."""

    name: Text
    value: Any
    user_id: AnyId = ""


class StateIncrement(Keyed, frozen=True, kw_only=True):
    """A state that is a number, or is not there yet, and what to add."""

    name: Text
    by: int | float = 1
    user_id: AnyId = ""


class StateChanged(msgspec.Struct, frozen=True):
    """The value after it."""

    value: Any


class StateDeleted(msgspec.Struct, frozen=True):
    """Whether there was such a state."""

    deleted: bool


class Sync(_Request, frozen=True):
    """Write out now; ``to`` google moves a local workbook into the spreadsheet."""

    to: Literal["google"] | None = None
    dry_run: bool = False
    """With ``to``: check the access, and only tell what would be moved."""
    wait: Annotated[float, Meta(ge=0, le=600)] = 30.0
    """Seconds to wait for it."""


class Synced(msgspec.Struct, frozen=True):
    """What has come of it; what is pending is safe, and goes on being written."""

    mode: str
    complete: bool
    moved: int
    """Rows that were taken over from the local workbook."""
    written: int
    pending: int
    error: str | None = None


class Used(msgspec.Struct, frozen=True):
    """Calls to Google."""

    last_minute: int
    limit: int
    """Per minute."""
    since_start: int


class Status(msgspec.Struct, frozen=True):
    """Where the tabs are, and how the writing goes."""

    mode: str
    """``local`` or ``google``."""
    spreadsheet: str | None
    pending: int
    last_write: str | None
    written: int
    last_error: str | None
    last_error_at: str | None
    failures: int
    retry_in: float | None
    reads: Used | None
    writes: Used | None
    cache_age: float | None
    """Seconds since users and states were read."""
    rows: dict[str, int]
    """In the local file: of a local workbook all, of one at Google the copy of users and states."""
    memory: int
    """Resident bytes of the worker."""
    note: str | None


class Export(_Request, frozen=True):
    """Which tab. ``escape`` puts ' before a text that a spreadsheet program would take for a formula."""

    tab: Literal["users", "log", "states"]
    escape: bool = True


class Csv(msgspec.Struct, frozen=True):
    """CSV (RFC 4180), header first; as a stream, a part of it."""

    csv: str
    rows: int
