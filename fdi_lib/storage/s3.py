"""A bucket's prefix as a store: Amazon S3 and what speaks its protocol.

s3fs keeps the session (credentials, event loop, connections); the requests are plain S3 calls, because two of s3fs's
own answers don't fit: a lost conditional PUT is ``FileExistsError`` only when the server names the condition, which not
every server does, and above 100 MB it becomes a multipart upload, whose condition not every server checks.
Does NOT know credentials: they come from the environment, a profile or the instance's role.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import s3fs
from aiohttp import ClientError as BodyError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
)
from botocore.exceptions import ConnectionError as ConnectError
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync

from fdi_lib.errors import ObjectRefusedError, StorageOutageError, StorageRefusedError
from fdi_lib.storage.s3_errors import is_passing, refused_object, said, status, translate
from fdi_lib.storage.store import ObjectEntry, Store, check_name

if TYPE_CHECKING:
    from fdi_lib.manifest.settings import StorageSettings

# Six tries with growing pauses, drawn by chance so that workers don't come back all at once: a store that can't be
# reached is given up after half a minute at most.
CONFIG = {
    "connect_timeout": 4,
    "read_timeout": 30,
    "retries": {"mode": "standard", "total_max_attempts": 6},
    "max_pool_connections": 32,
    # Many S3-compatible stores don't know the newer checksums; the signature covers the payload anyway.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
CHECK_S = 30.0  # a store that accepts a connection and says nothing is given up after this at preflight
# Tries at what botocore doesn't try again, the reading of an answer's body for one; and rounds of botocore's tries
# with a store that says that it lives and that we are too fast.
TRIES = 5
PATIENCE_S, SLOWEST_BYTES_PER_S = 60.0, 20_000  # for a body that arrives in drops: no time-out of botocore's ends that
_BROKEN_BODY = (BodyError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError, TimeoutError)


class S3Store(Store):
    """Objects below ``s3://bucket/prefix``."""

    def __init__(
        self, bucket: str, prefix: str, endpoint_url: str | None, region: str | None, config: dict[str, Any] = CONFIG
    ) -> None:
        self.bucket, self.prefix = bucket, prefix.strip("/")
        self.endpoint_url, self.region, self.config = endpoint_url, region, config
        self.patience_s = PATIENCE_S
        self._session: s3fs.S3FileSystem | None = None

    @classmethod
    def at_uri(cls, uri: str, storage: StorageSettings) -> S3Store:
        """Root a store at ``s3://bucket/prefix``."""
        bucket, _, prefix = uri.partition("://")[2].partition("/")
        return cls(bucket, prefix, storage.endpoint_url, storage.region)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None}

    def uri(self, path: str = "") -> str:
        """``s3://bucket/key``."""
        return "/".join(part for part in (f"s3://{self.bucket}", self.prefix, path) if part)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Store.read`."""
        if length == 0:
            return b""
        last = "" if length is None else offset + length - 1
        ranged: dict[str, Any] = {"Range": f"bytes={offset}-{last}"} if offset or length is not None else {}
        try:
            return self._call("get_object", path, Key=self._key(path), **ranged)["Body"]
        except ClientError as error:
            if status(error) == 416:  # the range starts behind the end
                return b""
            raise self._refused(error, self._key(path)) from error

    def create(self, path: str, data: bytes) -> bool:
        """See :meth:`Store.create`. One conditional PUT; S3 takes at most 5 GiB in one."""
        for attempt in range(TRIES):
            try:
                self._call("put_object", path, Key=self._key(path), Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                if status(error) == 412:
                    return False
                if status(error) != 409:  # 409: another create of this key is under way, so who wins is open
                    raise translate(error, self.uri(path)) from error
                time.sleep(_pause_s(attempt))
        raise StorageOutageError(f"{self.uri(path)}: others keep creating it; run again")

    def replace(self, path: str, data: bytes) -> None:
        """See :meth:`Store.replace`."""
        self._translated_call("put_object", path, Key=self._key(path), Body=data)

    def size(self, path: str) -> int | None:
        """See :meth:`Store.size`."""
        return self._head(self._key(path))

    def walk(self, prefix: str = "", without: str | None = None) -> Iterator[ObjectEntry]:
        """See :meth:`Store.walk`. One page of the listing at a time; folder markers (``name/``, empty) are left out."""
        root = f"{self.prefix}/" if self.prefix else ""
        more: dict[str, str] = {}
        while True:
            page = self._translated_call("list_objects_v2", prefix, Prefix=root + prefix, **more)
            for item in page.get("Contents", ()):
                if not (item["Key"].endswith("/") and item["Size"] == 0):
                    yield ObjectEntry(item["Key"][len(root) :], item["Size"], item["ETag"].strip('"'))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, path: str) -> None:
        """See :meth:`Store.delete`."""
        self._translated_call("delete_object", path, Key=self._key(path))

    def is_object(self) -> bool:
        """True when the prefix itself is a key."""
        return bool(self.prefix) and self._head(self.prefix) is not None

    def check(self, for_writing: bool = False) -> None:
        """See :meth:`Store.check`. The right to write can't be asked for without writing."""
        folder = f"{self.prefix}/" if self.prefix else ""
        try:
            page = self._call("list_objects_v2", "", CHECK_S, Prefix=folder, MaxKeys=1)
        except ClientError as error:
            raise translate(error, self.uri()) from error
        if not for_writing and not page.get("KeyCount") and not self.is_object():
            raise StorageRefusedError(f"{self.uri()}: nothing lies there; check the prefix")

    def at(self, uri: str) -> tuple[Store, str]:
        """See :meth:`Store.at`."""
        if not uri.startswith("s3://"):
            raise StorageRefusedError(f"{uri}: not on S3, unlike {self.uri()}; list what lies in one store")
        if uri.startswith(self.uri() + "/"):
            return self, uri[len(self.uri()) + 1 :]
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        folder, _, name = key.rpartition("/")
        other = S3Store(bucket, folder, self.endpoint_url, self.region, self.config)
        other._session, other.patience_s = self._connection(), self.patience_s
        return other, name

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{check_name(path)}" if self.prefix else check_name(path)

    def _head(self, key: str) -> int | None:
        try:
            return self._call("head_object", "", Key=key)["ContentLength"]
        except ClientError as error:
            refused = self._refused(error, key)
            if isinstance(refused, FileNotFoundError):
                return None
            raise refused from error

    def _refused(self, error: ClientError, key: str) -> Exception:
        """Our error for a read that was refused. It is the object's alone where a listing still shows it."""
        found, (reason, sure) = translate(error, f"s3://{self.bucket}/{key}"), refused_object(error)
        if reason and not sure:
            try:
                listed = self._call("list_objects_v2", "", Prefix=key, MaxKeys=1).get("Contents", ())
            except ClientError:
                return found
            if key not in [item["Key"] for item in listed]:
                return FileNotFoundError(str(found))
        return ObjectRefusedError(reason, str(found)) if reason else found

    def _translated_call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        try:
            return self._call(method, path, **arguments)
        except ClientError as error:
            raise translate(error, self.uri(path)) from error

    def _connection(self) -> s3fs.S3FileSystem:
        if self._session is None:
            # Not from s3fs's cache of instances: it would keep credentials that have changed since.
            self._session = s3fs.S3FileSystem(
                endpoint_url=self.endpoint_url,
                client_kwargs={"region_name": self.region} if self.region else {},
                config_kwargs=self.config,
                skip_instance_cache=True,
            )
        return self._session

    def _call(self, method: str, path: str, timeout: float | None = None, **arguments: Any) -> dict[str, Any]:
        """One S3 request, answer's body included. A server's refusal stays ``ClientError``; the rest is translated."""
        session = self._connection()
        try:
            return sync(
                session.loop, _request, session, method, self.bucket, arguments, self.patience_s, timeout=timeout
            )
        except (
            TimeoutError,
            ConnectError,
            HTTPClientError,
            IncompleteReadError,
            ResponseParserError,
            BodyError,
        ) as error:
            inner = getattr(error, "kwargs", {}).get("error")
            if isinstance(error, SSLError) or isinstance(inner, ValueError):  # no request can be made of that endpoint
                problem = f"{self.uri(path)}: {said(error)}"
                raise StorageRefusedError(f"{problem}; check certificates and endpoint") from error
            where = f" at {self.endpoint_url}" if self.endpoint_url else ""
            problem = f"{self.uri(path)}: no answer{where} ({said(error) or 'time-out'})"
            raise StorageOutageError(f"{problem}; run again later") from error
        except BotoCoreError as error:  # no credentials, no such profile, not a bucket's name ...
            remedy = "check credentials (environment, profile or role), endpoint and bucket name"
            raise StorageRefusedError(f"{self.uri(path)}: {said(error)}; {remedy}") from error


class _BrokenAnswerError(Exception):
    """An answer that could not be read to its end; why is its cause."""


async def _request(
    session: s3fs.S3FileSystem, method: str, bucket: str, arguments: dict[str, Any], patience_s: float
) -> dict[str, Any]:
    try:
        client = await session.set_session()
    except ValueError as error:  # botocore's answer to "Invalid endpoint"
        raise StorageRefusedError(f"s3://{bucket}: {said(error)}; write the endpoint as https://host:port") from error
    attempt = 0
    while True:
        try:
            return await _once(getattr(client, method), arguments | {"Bucket": bucket}, patience_s)
        except ClientError as error:
            if not is_passing(error) or attempt + 1 == TRIES:
                raise
        except _BrokenAnswerError as error:
            if attempt + 1 == TRIES:
                assert error.__cause__ is not None
                raise error.__cause__ from None
        await asyncio.sleep(_pause_s(attempt))
        attempt += 1


async def _once(call: Callable[..., Any], arguments: dict[str, Any], patience_s: float) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = await call(**arguments)
    except (BodyError, ResponseParserError) as error:  # an error's text, or a listing's, that ends early
        raise _BrokenAnswerError from error
    if "Body" not in answer:
        return answer
    try:
        async with asyncio.timeout(patience_s + answer.get("ContentLength", 0) / SLOWEST_BYTES_PER_S):
            async with answer["Body"] as body:
                return answer | {"Body": await body.read()}
    except _BROKEN_BODY as error:
        raise _BrokenAnswerError from error


def _pause_s(attempt: int) -> float:
    """Before the next try: twice as long each time, and never the same for two workers."""
    return random.uniform(0.5, 1.0) * 0.4 * 2**attempt
