"""Reading a request's body: a strict media type, no encoding, never more than the cap in memory, and not for ever."""

from __future__ import annotations

import asyncio
import logging

import falcon.asgi

from pipeline.ingest.ports import MEBIBYTE
from pipeline.ingest.problems import Kind, Problem, problem

logger = logging.getLogger(__name__)

DISCARD_BYTES = 32 * MEBIBYTE
DISCARD_SECONDS = 2.0


def media_type_of(request: falcon.asgi.Request, accepted: tuple[str, ...] | None = None) -> str:
    """The media type without parameters, if it is among the accepted ones (None: any) and the text is UTF-8; else the 415 problem."""
    encoding = request.get_header("Content-Encoding") or "identity"
    if encoding.strip().lower() != "identity":
        raise problem(Kind.MEDIA_TYPE, "send the body as it is, without Content-Encoding", path="content-encoding", headers={"Accept-Encoding": "identity"})
    media_type, *parameters = (part.strip() for part in (request.content_type or "").split(";"))
    media_type = media_type.lower()
    wanted = " or ".join(accepted or ("the type of the source",))
    if not media_type or (accepted is not None and media_type not in accepted):
        raise problem(Kind.MEDIA_TYPE, f"expected {wanted}", path="content-type")
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise problem(Kind.MEDIA_TYPE, "expected the charset utf-8", path="content-type")
    return media_type


def declared_length(request: falcon.asgi.Request) -> int | None:
    """The declared length; None if the body comes in chunks. Raises the 400 problem if it is no number."""
    try:
        return request.content_length
    except falcon.HTTPInvalidHeader:
        raise problem(Kind.UNREADABLE, "the declared length is not a number", path="content-length") from None


async def read_body(request: falcon.asgi.Request, *, cap_bytes: int, timeout_seconds: float) -> bytes:
    """The whole body; refused from its declared length where there is one, else as soon as it grows beyond the cap."""
    declared = declared_length(request)
    if declared is not None and declared > cap_bytes:
        raise _too_large(cap_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_seconds):
            async for chunk in request.stream:
                if len(body) + len(chunk) > cap_bytes:
                    raise _too_large(cap_bytes)
                body += chunk
    except TimeoutError:
        raise too_slow(timeout_seconds) from None
    if declared is not None and len(body) != declared:
        raise problem(Kind.UNREADABLE, "the body ended before its declared length")
    return bytes(body)


async def discard_rest(request: falcon.asgi.Request) -> None:
    """Take in what is left of a refused body without keeping it, within bounds.

    A server that answers and closes while the client still sends resets the connection, and the client never sees the refusal.
    """
    left = DISCARD_BYTES
    try:
        if request.method in ("GET", "HEAD") or (declared_length(request) or 0) > left or request.stream.eof:
            return
        async with asyncio.timeout(DISCARD_SECONDS):
            while left > 0 and (chunk := await request.stream.read(65_536)):
                left -= len(chunk)
    except (TimeoutError, Problem, falcon.errors.OperationNotAllowed):
        logger.debug("rest_of_body_left")


def too_slow(timeout_seconds: float) -> Problem:
    """408: the body did not arrive in time."""
    return problem(Kind.TIMEOUT, f"the body took longer than {timeout_seconds:g} seconds")


def _too_large(cap_bytes: int) -> Problem:
    return problem(Kind.TOO_LARGE, f"the body is larger than {cap_bytes} bytes")
