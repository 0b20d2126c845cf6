"""Objects in a bucket of any server that speaks S3. The only room that knows the S3 library.

Large objects go in parts, so that one part of each is in memory. Links are signed by a second client, for
the address that the client of ours can reach, which need not be the one we use.

The library is large: import this module only when S3 is configured.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    NoCredentialsError,
    ReadTimeoutError,
)

from server.downloads.objects import (
    CONTENT_TYPE,
    PREFIX,
    Key,
    ObjectInfo,
    StoreError,
    StoreFull,
    StoreUnavailable,
    disposition,
    link_seconds,
)
from server.downloads.parts import parts
from server.downloads.tidying import Tidying
from upstream.faults import FAULTS

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

log = logging.getLogger("hedgerow.downloads")

PART = 5 * 1024 * 1024
"""Bytes of a part; S3 takes none smaller but the last, and 10,000 of them: an object has 48 GiB at most."""
MARKER = ".hedgerow-health"
"""The object that the health check asks for. It need not be there."""
PATIENCE = 5.0
"""Seconds that a small request may take, with its retries."""
PART_PATIENCE = 30.0
"""Seconds that sending a part, or putting the parts together, may take, with its retries."""
TRIES = 3
CONNECTIONS = 50
FULL = frozenset(
    {"InsufficientCapacity", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
)
NO_REGION = "us-east-1"
"""The region that a new bucket's request must not name."""


@dataclass(frozen=True, slots=True)
class S3Config:
    """
    Where the bucket is.

    Attributes:
        endpoint: the server's URL; None for Amazon's.
        public_endpoint: its URL as clients reach it; None if it is the same.
        path_style: the bucket is in the path (most own servers), not in the host name (Amazon).
        access_key_id, secret_access_key: None: the library looks in its usual places, such as the role of
            the machine.
    """

    bucket: str
    region: str = NO_REGION
    endpoint: str | None = None
    public_endpoint: str | None = None
    path_style: bool = True
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)


class S3Objects:
    """
    An `ObjectStore` in a bucket. Made by `open_s3_objects`.

    Args:
        client: for the requests.
        signing: for the links; sends nothing.
        clock: seconds since 1970.
        patience, part_patience: seconds that a small request, and one with a part, may take.
    """

    def __init__(
        self,
        client: S3Client,
        signing: S3Client,
        config: S3Config,
        clock: Callable[[], float],
        patience: float,
        part_patience: float,
    ) -> None:
        self._client = client
        self._signing = signing
        self._bucket = config.bucket
        self._region = config.region
        self._clock = clock
        self._patience = patience
        self._part_patience = part_patience
        self._prepared = False
        self._tidying = Tidying()

    async def prepare(self) -> None:
        """Make the bucket, if there is none."""
        async with self._asking(self._patience):
            if not await self._has_bucket():
                await self._make_bucket()
        self._prepared = True

    async def put(self, key: Key, chunks: AsyncIterable[bytes]) -> int:
        """One request for what fits in a part; else parts, which become the object together."""
        if not self._prepared:
            await self.prepare()
        async with aclosing(parts(chunks, PART)) as pieces:
            first = [await anext(pieces, b"")]
            if len(first[0]) == PART:
                return await self._put_parts(key, first, pieces)
        return await self._put_whole(key, first[0])

    async def head(self, key: Key) -> ObjectInfo | None:
        """What is known of the object."""
        async with self._asking(self._patience):
            try:
                found = await self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
            modified = found["LastModified"].timestamp()
            return ObjectInfo(found["ContentLength"], found["ETag"].strip('"'), modified)

    async def url(self, key: Key, expires_in: float, filename: str) -> str:
        """A presigned GET."""
        seconds = link_seconds(expires_in)
        await asyncio.sleep(0)  # it takes a millisecond and waits for nothing, and a job may want a thousand
        async with self._asking(self._patience):
            return await self._signing.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": key,
                    "ResponseContentDisposition": disposition(filename),
                    "ResponseContentType": CONTENT_TYPE,
                },
                ExpiresIn=seconds,
            )

    async def delete(self, key: Key) -> None:
        """Take the object away."""
        async with self._asking(self._patience):
            await self._client.delete_object(Bucket=self._bucket, Key=key)

    async def check(self) -> None:
        """Ask for the marker. A GET, because a HEAD does not tell a missing marker from a missing bucket."""
        async with self._asking(self._patience):
            try:
                found = await self._client.get_object(Bucket=self._bucket, Key=MARKER)
            except ClientError as error:
                if _code(error) != "NoSuchKey":
                    raise
            else:
                found["Body"].close()

    async def sweep(self, older_than: float) -> int:
        """Abort the uploads of dead processes."""
        before = self._clock() - older_than
        stale = [found async for found in self._uploads(before)]
        for key, upload in stale:
            async with self._asking(self._patience):
                await self._abort(key, upload)
        return len(stale)

    async def aclose(self) -> None:
        """Wait for what is still being aborted."""
        await self._tidying.aclose(self._patience)

    async def _has_bucket(self) -> bool:
        try:
            await self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if _status(error) == 404:
                return False
            raise
        return True

    async def _make_bucket(self) -> None:
        try:
            if self._region == NO_REGION:
                await self._client.create_bucket(Bucket=self._bucket)
            else:
                await self._client.create_bucket(
                    Bucket=self._bucket,
                    CreateBucketConfiguration={"LocationConstraint": self._region},  # type: ignore[typeddict-item]
                )
        except ClientError:
            if not await self._has_bucket():  # another process may have been first
                raise

    async def _put_whole(self, key: Key, body: bytes) -> int:
        digest = await _digest(body)
        async with self._asking(self._part_patience):
            sent = await self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=io.BytesIO(body),
                ContentMD5=digest,
                ContentType=CONTENT_TYPE,
            )
            _ = sent["ETag"]  # who says nothing of it has not stored it
        return len(body)

    async def _put_parts(self, key: Key, first: list[bytes], pieces: AsyncGenerator[bytes, None]) -> int:
        """*first* is in a list, to be taken out: a name would hold that part for as long as this takes."""
        # Begun in a task of its own: cancelled half-way it would leave an upload whose id nobody knows.
        begun = self._tidying.start(self._begin(key))
        try:
            upload = await asyncio.shield(begun)
            size = len(first[0])
            done = [await self._put_part(key, upload, 1, first.pop())]
            async for piece in pieces:
                size += len(piece)
                done.append(await self._put_part(key, upload, len(done) + 1, piece))
                del piece  # before the next is gathered
            async with self._asking(self._part_patience):
                await self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": done}
                )
        except BaseException:
            await self._tidying.finish(self._give_up(key, begun))
            raise
        return size

    async def _begin(self, key: Key) -> str:
        async with self._asking(self._patience):
            begun = await self._client.create_multipart_upload(
                Bucket=self._bucket, Key=key, ContentType=CONTENT_TYPE
            )
            return begun["UploadId"]

    async def _put_part(self, key: Key, upload: str, number: int, body: bytes) -> CompletedPartTypeDef:
        digest = await _digest(body)
        async with self._asking(self._part_patience):
            sent = await self._client.upload_part(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=io.BytesIO(body),
                ContentMD5=digest,
            )
            return {"PartNumber": number, "ETag": sent["ETag"]}

    async def _give_up(self, key: Key, begun: asyncio.Task[str]) -> None:
        try:
            upload = await begun
        except StoreError:
            return  # nothing to abort
        try:
            async with self._asking(self._patience):
                await self._abort(key, upload)
        except StoreError as error:
            log.warning("an upload to %s is left to the sweep: %s", key, error.detail)

    async def _abort(self, key: str, upload: str) -> None:
        try:
            await self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
        except ClientError as error:
            if _status(error) != 404:  # it is complete, or was aborted
                raise

    async def _uploads(self, before: float) -> AsyncIterator[tuple[str, str]]:
        """Key and id of the uploads that were begun *before* then, in seconds since 1970."""
        lister = self._client.get_paginator("list_multipart_uploads")
        pages = aiter(lister.paginate(Bucket=self._bucket, Prefix=PREFIX))
        while True:
            async with self._asking(self._patience):
                page = await anext(pages, None)
            if page is None:
                return
            for found in page.get("Uploads", []):
                if found["Initiated"].timestamp() < before:
                    yield found["Key"], found["UploadId"]

    @asynccontextmanager
    async def _asking(self, seconds: float) -> AsyncIterator[None]:
        """
        Around requests, and the reading of what they got: bounds their time, and tells their failures in the
        words of the port.
        """
        try:
            async with asyncio.timeout(seconds):
                yield
        except (TimeoutError, ConnectTimeoutError, ReadTimeoutError) as error:
            raise StoreUnavailable("The object store does not answer in time.") from error
        except ClientError as error:
            if _code(error) == "NoSuchBucket":
                self._prepared = False
            raise _told(error) from error
        except NoCredentialsError as error:
            raise StoreUnavailable("There are no credentials for the object store.") from error
        except (BotoCoreError, *FAULTS) as error:
            raise StoreUnavailable("The object store cannot be reached.") from error
        except KeyError as error:  # such as the page of a gateway before it
            raise StoreUnavailable("What answers is not an object store.") from error


async def _digest(body: bytes) -> str:
    """
    What the server checks *body* against, as ``Content-MD5``; made in a thread, because a part takes several
    milliseconds. The library's own signature of the body would take them on the loop.
    """
    made = await asyncio.to_thread(hashlib.md5, body, usedforsecurity=False)
    return base64.b64encode(made.digest()).decode()


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _told(error: ClientError) -> StoreError:
    """What the server's refusal comes to. Its own words stay in the cause: they name buckets and keys."""
    if _status(error) == 507 or _code(error) in FULL:
        return StoreFull("The object store has no room left.")
    if _status(error) in (401, 403):
        return StoreUnavailable("The object store refuses our credentials.")
    if _code(error) == "NoSuchBucket":
        return StoreUnavailable("The bucket of the object store is missing.")
    return StoreUnavailable("The object store failed.")


@asynccontextmanager
async def open_s3_objects(
    config: S3Config,
    clock: Callable[[], float],
    *,
    patience: float = PATIENCE,
    part_patience: float = PART_PATIENCE,
) -> AsyncIterator[S3Objects]:
    """The store that *config* tells of, until the end of the context. Sends nothing yet."""
    manners = AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": "path" if config.path_style else "virtual", "payload_signing_enabled": False},
        request_checksum_calculation="when_required",  # newer checksums are unknown to many servers
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": TRIES},
        connect_timeout=patience,
        read_timeout=part_patience,
        max_pool_connections=CONNECTIONS,
    )
    session = get_session()

    async with AsyncExitStack() as stack:

        async def client(endpoint: str | None) -> S3Client:
            return await stack.enter_async_context(
                session.create_client(
                    "s3",
                    region_name=config.region,
                    endpoint_url=endpoint,
                    aws_access_key_id=config.access_key_id,
                    aws_secret_access_key=config.secret_access_key,
                    config=manners,
                )
            )

        asking = await client(config.endpoint)
        signing = await client(config.public_endpoint or config.endpoint)
        store = S3Objects(asking, signing, config, clock, patience, part_patience)
        stack.push_async_callback(store.aclose)
        yield store
