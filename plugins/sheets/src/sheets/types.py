"""Requests and responses of the operations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1)]
Id = Text | int
"""ID of a user; a number is stored as its text."""
AnyId = str | int
"""ID of a user, or empty for the application itself."""
Limit = Annotated[int, Meta(ge=1, le=1000)]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of requests, which refuse unknown fields."""


class Keyed(_Request, frozen=True):
    """A request with an optional key: repeated with the same key, it runs once."""

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
    """Values of the configured extra columns."""


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
    """Request for one user."""

    user_id: Id


class UserResponse(msgspec.Struct, frozen=True):
    """A user, or null, as read ``age`` seconds ago, with all later changes of this host."""

    user: User | None
    age: float


class UserRegister(_Request, frozen=True):
    """A user to add; an existing user stays unchanged."""

    user_id: Id
    name: str = ""
    fields: dict[str, Any] = {}


class UserRegistered(msgspec.Struct, frozen=True):
    """The user, and whether it is new."""

    user: User
    created: bool


class UserApprove(_Request, frozen=True):
    """A user to approve; ``by`` is the ID of the approver."""

    user_id: Id
    by: AnyId = ""


class UserUpdate(_Request, frozen=True):
    """Changes of a user; missing fields stay unchanged."""

    user_id: Id
    name: str | None = None
    status: str | None = None
    fields: dict[str, Any] = {}


class UserChanged(msgspec.Struct, frozen=True):
    """The user after the change."""

    user: User


class UserList(_Request, frozen=True):
    """Request for a page of users; ``cursor`` is the ``next`` of the page before."""

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
    """A row to append; ``at`` is now by default."""

    user_id: AnyId = ""
    event: str = ""
    text: str = ""
    data: Any = None
    at: str | None = None
    fields: dict[str, Any] = {}


class LogAppend(Keyed, frozen=True):
    """One row by its fields, or many by ``rows``."""

    user_id: AnyId = ""
    event: str = ""
    text: str = ""
    data: Any = None
    at: str | None = None
    fields: dict[str, Any] = {}
    rows: Annotated[list[NewRow], Meta(max_length=10_000)] | None = None


class LogAppended(msgspec.Struct, frozen=True):
    """Keys of the rows, which are on disk and arrive in the spreadsheet exactly once."""

    keys: list[str]
    pending: int
    """Rows and changes that are not written to Google yet; 0 for a local workbook."""


class LogTail(_Request, frozen=True):
    """Request for the newest rows, optionally of one user."""

    limit: Limit = 20
    user_id: AnyId | None = None


class LogRows(msgspec.Struct, frozen=True):
    """The newest rows, oldest first."""

    rows: list[LogRow]
    age: float


class StateKey(_Request, frozen=True):
    """Name and user of a state; states of the application itself have no user."""

    name: Text
    user_id: AnyId = ""


class StateResponse(msgspec.Struct, frozen=True):
    """A state's value; null if the state is missing."""

    value: Any
    found: bool
    updated_at: str
    age: float


class StateSet(_Request, frozen=True):
    """A state and its value, which is any JSON."""

    name: Text
    value: Any
    user_id: AnyId = ""


class StateIncrement(Keyed, frozen=True, kw_only=True):
    """A numeric or missing state, and the number to add."""

    name: Text
    by: int | float = 1
    user_id: AnyId = ""


class StateChanged(msgspec.Struct, frozen=True):
    """The value after the change."""

    value: Any


class StateDeleted(msgspec.Struct, frozen=True):
    """Whether the state existed."""

    deleted: bool


class Sync(_Request, frozen=True):
    """Request to write now; ``to`` google moves a local workbook into the spreadsheet."""

    to: Literal["google"] | None = None
    dry_run: bool = False
    """With ``to``: check the access and count the rows, but move nothing."""
    wait: Annotated[float, Meta(ge=0, le=600)] = 30.0
    """Seconds to wait for the end."""


class Synced(msgspec.Struct, frozen=True):
    """Result of a sync; pending rows are safe and are written later."""

    mode: str
    complete: bool
    moved: int
    """Rows that were moved from the local workbook."""
    written: int
    pending: int
    error: str | None = None


class Used(msgspec.Struct, frozen=True):
    """Number of calls to Google."""

    last_minute: int
    limit: int
    """Calls per minute."""
    since_start: int


class Status(msgspec.Struct, frozen=True):
    """Place of the tabs, and progress of the writer."""

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
    """Rows in the local file: all rows of a local workbook, or the copy of users and states at Google."""
    memory: int
    """Resident bytes of the worker."""
    note: str | None


class Export(_Request, frozen=True):
    """Tab to export; ``escape`` puts ' before texts that spreadsheet programs would read as formulas."""

    tab: Literal["users", "log", "states"]
    escape: bool = True


class Csv(msgspec.Struct, frozen=True):
    """CSV (RFC 4180) with a header; in a stream, one part of it."""

    csv: str
    rows: int
