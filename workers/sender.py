"""Sends events of a file over HTTP, as a producer would: in batches, again when the relay is busy, and each refusal named."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

import requests

from pipeline.errors import ConsentRelayError

IDENTIFIERS: Final = ("external_id", "email", "phone", "national_id", "country")
ATTEMPTS: Final = 6
BUSY: Final = (429, 502, 503, 504)
LONGEST_WAIT_SECONDS: Final = 60.0
"""However long a busy relay asks us to wait."""


class SendingFailed(ConsentRelayError):
    """The relay could not be reached or refused the request as a whole; events sent before are safe."""


@dataclass(slots=True)
class SendResult:
    """What came of all events; `refused` has the place of each refused one and why."""

    accepted: int = 0
    duplicates: int = 0
    superseded: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)


class Sender:
    """Posts to one relay with one key. Sending again is safe: without an idempotency key the content is the key."""

    def __init__(self, url: str, key: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # a ~/.netrc would replace the key
        self._session.headers["Authorization"] = f"Bearer {key}"
        self._sleep = sleep

    def send(self, events: Sequence[Any], batch: int = 500, progress: Callable[[int], None] = lambda _: None) -> SendResult:
        """Send our own events in batches."""
        result = SendResult()
        for start in range(0, len(events), batch):
            part = events[start : start + batch]
            answer = self._post("/v1/consent-events/batch", part).json()
            for item in answer["results"]:
                _count(result, item, start + item["index"])
            progress(len(part))
        return result

    def send_to_source(self, source: str, bodies: Sequence[Any], progress: Callable[[int], None] = lambda _: None) -> SendResult:
        """Send each body to a source of another kind, one request each."""
        result = SendResult()
        for index, body in enumerate(bodies):
            response = self._post(f"/v1/sources/{source}", body, refusals=(400, 409, 413, 422))
            answer = response.json()
            for item in answer.get("results", [answer]):
                _count(
                    result,
                    item if response.ok else {"status": "rejected", "errors": item.get("errors") or [{"path": "", "message": item.get("title", "refused")}]},
                    index,
                )
            progress(1)
        return result

    def get(self, path: str) -> Any:
        """The JSON of one of the relay's pages."""
        return self._request("GET", path, None, ()).json()

    def _post(self, path: str, body: Any, refusals: tuple[int, ...] = ()) -> requests.Response:
        return self._request("POST", path, json.dumps(body, ensure_ascii=False).encode(), refusals)

    def _request(self, method: str, path: str, body: bytes | None, refusals: tuple[int, ...]) -> requests.Response:
        for attempt in range(1, ATTEMPTS + 1):
            wait = min(5.0, 0.2 * 2**attempt)
            try:
                response = self._session.request(
                    method, self._url + path, data=body, headers={"Content-Type": "application/json"}, timeout=(3, 60), allow_redirects=False
                )
            except requests.RequestException as error:
                problem = f"{self._url} cannot be reached ({type(error).__name__})"
            else:
                if response.ok or response.status_code in refusals:
                    return response
                problem = f"{self._url}{path} answered {response.status_code} {response.reason}{_words(response)}"
                if response.status_code not in BUSY:
                    break
                asked = response.headers.get("Retry-After", "")
                wait = max(wait, min(LONGEST_WAIT_SECONDS, float(asked))) if asked.isdecimal() else wait
            if attempt < ATTEMPTS:
                self._sleep(wait)
        raise SendingFailed(problem)


def _words(response: requests.Response) -> str:
    """Why the relay refuses a request as a whole, and what to look at; the words of anything between it and us are left out."""
    said = ""
    if response.headers.get("Content-Type") == "application/problem+json":
        answer = response.json()
        said = "; ".join(f"{error['path']}: {error['message']}".removeprefix(": ") for error in answer["errors"]) or answer["title"]
    asked = "is CONSENT_KEY a key of the source that these events come from, with the scope `ingest`?" if response.status_code in (401, 403) else ""
    words = "; ".join(filter(None, (said, asked)))
    return f": {words}" if words else ""


def _count(result: SendResult, item: Mapping[str, Any], index: int) -> None:
    status = item["status"]
    if status == "rejected":
        result.refused.append((index, "; ".join(f"{error['path'] or 'body'}: {error['message']}" for error in item["errors"])))
        return
    result.event_ids.append(item["event_id"])
    if status == "duplicate":
        result.duplicates += 1
    elif status == "superseded":
        result.superseded += 1
    else:
        result.accepted += 1


def read_events(file: str, stream: TextIO | None = None) -> list[Any]:
    """The events of a file, by its ending. Raises ValueError naming the line that cannot be read, without its content."""
    if stream is not None:
        return list(_lines(file, stream))
    path = Path(file)
    with path.open(encoding="utf-8-sig", newline="") as opened:
        if path.suffix.lower() == ".csv":
            return _rows(file, csv.DictReader(opened))
        if path.suffix.lower() in (".ndjson", ".jsonl"):
            return list(_lines(file, opened))
        try:
            found = json.load(opened)
        except ValueError as error:
            raise ValueError(f"{file}: no JSON at line {getattr(error, 'lineno', '?')}; NDJSON is read from files that end in .ndjson or .jsonl") from None
    return found if isinstance(found, list) else [found]


def _lines(file: str, stream: TextIO) -> Iterator[Any]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                raise ValueError(f"{file}: line {number} is no JSON") from None


def _rows(file: str, reader: csv.DictReader[str]) -> list[Any]:
    try:
        return [_event_of_row(row) for row in reader]
    except csv.Error:
        raise ValueError(f"{file}: line {reader.line_num} is no CSV") from None
    except (TypeError, AttributeError):
        raise ValueError(f"{file}: one column is part of another: {', '.join(map(str, reader.fieldnames or ()))}") from None


def _event_of_row(row: Mapping[str | None, Any]) -> dict[str, Any]:
    """An event from a CSV row: empty cells are left out, identifiers belong to the subject, dots make objects."""
    event: dict[str, Any] = {}
    for column, cell in row.items():
        if column is None:
            event["columns_too_many"] = cell
        elif cell:
            *outer, name = (f"subject.{column}" if column in IDENTIFIERS else column).strip().split(".")
            place = event
            for part in outer:
                place = place.setdefault(part, {})
            place[name] = cell
    return event
