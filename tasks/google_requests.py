"""gcsfs with our own patience: every request has a time limit, retries, and a whole answer or none.

gcsfs 2026.10 has no time limit of its own, gives up at the first silent server, tries a wrong
password six times, and takes a shortened answer for the object.
"""

import asyncio
import json
import logging
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, ClassVar

import aiohttp
from fsspec.asyn import sync_wrapper  # type: ignore[import-untyped]  # neither types nor stubs
from gcsfs.core import GCSFileSystem  # type: ignore[import-untyped]  # as above
from gcsfs.retry import HttpError, validate_response  # type: ignore[import-untyped]  # as above
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from tasks.digests import crc32c
from tasks.errors import NotWholeError, StoreRefusedError

log = logging.getLogger(__name__)

_LARGE = 1 << 20  # bytes; aiohttp wants larger bodies as files
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a service may fail before we say so."""

    tries: int = 6  # of one request; 31 to 36 s of waiting in all
    wait_s: float = 1.0  # before the second try, doubled before each further one
    silence_s: float = 60.0  # without a byte from the service, in one try
    slowest: float = 100_000  # bytes per second, of a body that we send

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures, spread so that many clients do not meet."""
        return self.wait_s * (2 ** (failures - 1) + random.random())  # noqa: S311  no secret


class GoogleStorage(GCSFileSystem):  # type: ignore[misc]  # gcsfs has no types
    """A class below gcsfs's own, for it is the one way to change what all its methods call."""

    patience: ClassVar[Patience] = Patience()

    async def _request(
        self,
        method: str,
        path: str,
        *args: str,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        data: Any = None,
        tries: int = 0,
        **query: Any,
    ) -> tuple[int, Mapping[str, str], object, bytes]:
        """Status, headers, the request and the content; `tries` 0: as many as `patience` says."""
        for name in ("cache_type", "cache_source"):  # gcsfs counts its caches in the user agent
            query.pop(name, None)
        url = self._format_path(path, args)
        for failures in range(1, (tries or self.patience.tries) + 1):
            try:
                return await self._try(method, url, query, headers, {"json": json, "data": data})
            except Exception as error:
                if not is_passing(error) or failures == (tries or self.patience.tries):
                    raise
                log.debug("%s failed, try %d: %s", method, failures, type(error).__name__)
                await asyncio.sleep(self.patience.pause(failures))
        raise AssertionError("the last try returns or raises")

    ask = sync_wrapper(_request)

    @property
    def upload_base(self) -> str:
        """Where uploads go."""
        return f"{self._location}/upload/storage/v1/"

    async def _try(
        self,
        method: str,
        url: str,
        query: Mapping[str, Any],
        headers: Mapping[str, str] | None,
        body: dict[str, Any],
    ) -> tuple[int, Mapping[str, str], object, bytes]:
        await self._set_session()
        data = body["data"]
        if isinstance(data, bytes | memoryview) and len(data) > _LARGE:
            body["data"] = BytesIO(data)
        silence = self.patience.silence_s
        longest = silence + len(data) / self.patience.slowest if data else None
        async with self.session.request(
            method=method,
            url=url,
            params=self._get_params(query),
            headers=self._get_headers(headers),
            timeout=aiohttp.ClientTimeout(total=longest, sock_connect=silence, sock_read=silence),
            **body,
        ) as answer:
            content = await answer.read()
        if _is_passing_status(answer.status):  # gcsfs forgets the status of some
            raise HttpError({"code": answer.status, "message": _said(content)})
        validate_response(answer.status, content, url.partition("?")[0])
        require_whole(answer.status, answer.headers, content)
        return answer.status, answer.headers, answer.request_info, content


def google_storage() -> GoogleStorage:
    """Google's storage with the credentials that Google's own tools would take.

    Raises:
        StoreRefusedError: Credentials are named, and unusable.
    """
    named = os.environ.get("STORAGE_EMULATOR_HOST", "default")  # gcsfs's word for Google
    token = _token() if named in ("", "default") else "anon"  # an emulator gets no credentials
    return GoogleStorage(token=token, use_listings_cache=False)


def is_passing(error: Exception) -> bool:
    """Whether the same request may work in a moment."""
    if isinstance(error, HttpError):
        cause = error.__cause__  # gcsfs says 401 for every failure to get a token
        passing = isinstance(cause, RefreshError) and bool(cause.retryable)
        return passing or _is_passing_status(error.code)
    known = aiohttp.ClientError | TimeoutError | ConnectionError | NotWholeError | TransportError
    return isinstance(error, known) and not isinstance(error, aiohttp.InvalidURL)


def require_whole(status: int, headers: Mapping[str, str], content: bytes) -> None:
    """Raises unless the content is all that the headers of an answer promise.

    Raises:
        NotWholeError: It is shorter, longer or something else.
    """
    part = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if status == 206 and part:
        expected = int(part[2]) + 1 - int(part[1])
        if len(content) != expected:
            raise NotWholeError(f"{len(content)} bytes came instead of {expected}")
    elif status == 200 and "X-Goog-Hash" in headers and "Content-Encoding" not in headers:
        if stored_crc32c(headers) not in ("", crc32c(content)):
            raise NotWholeError(f"the {len(content)} bytes that came are not those of the object")
    elif content and headers.get("Content-Type", "").startswith("application/json"):
        try:
            json.loads(content)
        except ValueError as error:
            raise NotWholeError(f"an answer of {len(content)} bytes cannot be read") from error


def stored_crc32c(headers: Mapping[str, str]) -> str:
    """CRC-32C of the whole object as the headers of a download state it, "" if they do not."""
    match = re.search(r"crc32c=([\w+/=]+)", headers.get("X-Goog-Hash", ""))
    return match[1] if match else ""


@cache
def _token() -> str:
    """How gcsfs is to find credentials; looked for once, which can take seconds."""
    try:
        GoogleStorage(token="google_default", use_listings_cache=False)  # noqa: S106  a way, no token
    except DefaultCredentialsError as error:
        named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        if named:
            raise StoreRefusedError(
                f"GOOGLE_APPLICATION_CREDENTIALS={named}: no credentials there ({error}); name a "
                "key file of a service account, or unset it"
            ) from error
        log.info("no Google credentials: only what everybody may read can be read")
        return "anon"
    return "google_default"


def _is_passing_status(status: object) -> bool:
    return isinstance(status, int) and (status in (408, 429) or (status >= 500 and status != 501))


def _said(content: bytes) -> str:
    text = content.decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
