"""What an API's definition becomes: its row, the rows of its parameters and error codes, and its version.

A definition is one object with the API's scalars and, by how it was made, `WizardDetails`, `ScriptDetails` or
`RegistrationDetails`. The vendor's text says that only one of them comes and its sample shows all three: the row takes
its scalars from the one that `ApiMode` names, and parameters and error codes are taken from each, told apart by `kind`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sources.dataworks.settings import CREDENTIAL, NAMES

Row = dict[str, Any]

KINDS = {"wizard": "Wizard", "script": "Script", "registered": "Registration"}
MODES = dict(enumerate(KINDS))
_DETAILS = {kind: f"{prefix}Details" for kind, prefix in KINDS.items()}
_SCALARS = (
    "IsPagedResponse", "Script", "SuccessfulResultSample", "FailedResultSample", "ServiceHost", "ServicePath",
    "ServiceContentType", "ServiceRequestBodyDescription",
)  # fmt: skip
_NOT_DEFINITION = frozenset({"ModifiedTime", "OperatorId", "CreatedTime", "CreatorId", "Status", "TenantId"})
"""They move without the definition: a version is what an API does, not who touched it."""


def has_details(api: Mapping[str, Any]) -> bool:
    """Does this row of a list tell the API's details, or only its head? An object with nothing in it tells none."""
    return any(_tells(api.get(name)) for name in _DETAILS.values())


def clean(api: Mapping[str, Any], *, project: int) -> Row:
    """The definition without credentials, and with the workspace that was asked."""
    row: Row = _without_keys(api)
    row["ProjectId"] = project if row.get("ProjectId") is None else row["ProjectId"]
    return row


def api_row(api: Mapping[str, Any]) -> Row:
    """The API's own scalars, and those of its details."""
    row = {label: value for label, value in api.items() if label not in _DETAILS.values()}
    kind = MODES.get(_code(api.get("ApiMode"), -1))
    details = _object(api.get(_DETAILS[kind])) if kind else {}
    row |= {label: details.get(label) for label in _SCALARS if label in details}
    connection = _object(details.get(f"{KINDS[kind]}Connection")) if kind else {}
    row |= {label: connection[label] for label in ("ConnectionId", "TableName") if label in connection}
    return named(row)


def draft_row(api: Mapping[str, Any]) -> Row:
    """The same, and the details as they came."""
    return api_row(api) | {name: _object(api.get(name)) or None for name in _DETAILS.values()}


def version_row(api: Mapping[str, Any]) -> Row:
    """What the API does, in one stable text."""
    row = api_row(api)
    definition = {label: value for label, value in api.items() if label not in _NOT_DEFINITION}
    definition = {label: value for label, value in definition.items() if value not in (None, {}, [])}
    row["Definition"] = json.loads(json.dumps(definition, sort_keys=True))
    return row


def request_parameters(api: Mapping[str, Any]) -> Iterator[Row]:
    return _children(api, "RequestParameters")


def response_parameters(api: Mapping[str, Any]) -> Iterator[Row]:
    return _children(api, "ResponseParameters")


def error_codes(api: Mapping[str, Any]) -> Iterator[Row]:
    return _children(api, "ErrorCodes")


def grants(api: Mapping[str, Any], *, project: int) -> Iterator[Row]:
    """One row per workspace that an API is opened to."""
    head = {label: value for label, value in api.items() if label != "AuthorizationRecords"}
    for record in api.get("AuthorizationRecords") or ():
        granted = {
            "WorkspaceId": project,
            "AuthorizedProjectId": record.get("ProjectId"),
            "AuthorizedCreatorId": record.get("CreatorId"),
            "AuthorizedTime": record.get("CreatedTime"),
            "EndTime": record.get("EndTime"),
        }
        others = {f"Authorized{label}": value for label, value in record.items() if label not in _OF_RECORD}
        yield named(head | granted | others)


_OF_RECORD = ("ProjectId", "CreatorId", "CreatedTime", "EndTime")


def of_workspace(row: Mapping[str, Any], *, project: int) -> Row:
    """A row of a list that hangs off a workspace; the row's own ProjectId may be missing."""
    cleaned = clean(row, project=project)
    return named(cleaned)


def test_row(test: Mapping[str, Any], *, api: int) -> Row:
    """One test; its time comes in milliseconds."""
    row = named({label: value for label, value in _without_keys(test).items() if label != "Status"})
    row["Status"] = test.get("Status")
    row["ApiId"] = api if row.get("ApiId") is None else row["ApiId"]
    row["CreateTime"] = _instant(row.get("CreateTime"))
    # what the API was called with, and what it answered, as texts: they hold credentials as well as an object does
    for label in ("ParamMap", "RetResult"):
        if isinstance(row.get(label), str):
            row[label] = _text_without_keys(row[label])
    return row


def named(row: Row) -> Row:
    """The row with the name of every code beside it."""
    names: Row = {}
    for label, value in row.items():
        if label in NAMES:
            meaning = NAMES[label]
            names[f"{label}Name"] = (
                [meaning.get(_code(each, -1)) for each in value]
                if isinstance(value, list)
                else meaning.get(_code(value, -1))
            )
    return row | names


def unknown_codes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Codes that came and have no name here, as `ApiMode 7`."""
    found = {
        f"{label} {code}"
        for row in rows
        for label, meaning in NAMES.items()
        if (value := row.get(label)) is not None
        for code in (value if isinstance(value, list) else [value])
        if code is not None and f"{label}Name" in row and _code(code, -1) not in meaning
    }
    return sorted(found)


def _children(api: Mapping[str, Any], what: str) -> Iterator[Row]:
    head = {"ProjectId": api["ProjectId"], "ApiId": api["ApiId"]}
    for kind, prefix in KINDS.items():
        listed = _object(api.get(_DETAILS[kind])).get(f"{prefix}{what}")
        for position, child in enumerate(listed or (), start=1):
            yield named({**child, **head, "kind": kind, "position": position})


def _without_keys(value: Any) -> Any:
    match value:
        case dict():
            kept = {name: _without_keys(each) for name, each in value.items() if not CREDENTIAL.search(name)}
            if CREDENTIAL.search(str(kept.get("ParameterName") or "")):
                # a constant of a registered API is what its backend is opened with
                kept |= dict.fromkeys((name for name in ("DefaultValue", "ExampleValue") if name in kept), None)
            return kept
        case list():
            return [_without_keys(each) for each in value]
        case _:
            return value


def _text_without_keys(text: str) -> str:
    """A JSON text without credentials; to the letter as it came if it has none, or is no JSON."""
    try:
        parsed = json.loads(text)
        kept = _without_keys(parsed)
        return text if kept == parsed else json.dumps(kept, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _tells(details: Any) -> bool:
    return any(value not in (None, [], {}) for value in _object(details).values())


def _object(value: Any) -> Mapping[str, Any]:
    """The vendor may write an empty object as [] or null."""
    return value if isinstance(value, Mapping) else {}


def _code(value: Any, default: int) -> int:
    try:
        return default if isinstance(value, bool) else int(value)
    except (TypeError, ValueError):
        return default


def _instant(milliseconds: Any) -> Any:
    """Epoch milliseconds as UTC; what is no such number stays as it is, for the table to refuse."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(milliseconds))
    except (TypeError, ValueError, OverflowError):
        return milliseconds
    return moment.isoformat(timespec="milliseconds")
