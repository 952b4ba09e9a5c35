"""What an S3 server's refusal means: a missing object, an outage, a refusal of one object or of the whole store.

Does NOT know which request was refused, nor whether the store still answers.
"""

from __future__ import annotations

from botocore.exceptions import ClientError

from fdi_lib.errors import StorageOutageError, StorageRefusedError
from fdi_lib.manifest.locations import redact
from fdi_lib.records import Reason

_PASSING = (408, 425, 429, "SlowDown")  # statuses and codes: time-out, too early, too many requests
_REMEDIES = {
    "NoSuchBucket": "check the bucket's name, the endpoint and the region",
    "InvalidAccessKeyId": "check the access key in the environment or profile",
    "SignatureDoesNotMatch": "check the secret key in the environment or profile",
    "ExpiredToken": "renew the credentials",
    "RequestTimeTooSkewed": "set this machine's clock",
    "AccessDenied": "allow s3:GetObject, s3:ListBucket (and s3:PutObject for outputs) on it",
    "InvalidObjectState": "restore it from its archive tier",
    "NotImplemented": "this store lacks conditional PUT (If-None-Match), which creating once needs",
    "PermanentRedirect": "set storage.region to the bucket's region",
    "AuthorizationHeaderMalformed": "set storage.region to the bucket's region",
}


def is_passing(error: ClientError) -> bool:
    """Whether the server lives and says that we are too fast, or too early."""
    return status(error) in _PASSING or error.response["Error"].get("Code") in _PASSING


def refused_object(error: ClientError) -> tuple[Reason, bool]:
    """What a refused read may say of the object alone.

    Returns:
        ``ARCHIVED``, ``ACCESS_DENIED``, or nothing; and whether that is sure. If it isn't, it may be the object's own
        policy or key, or rights to the whole store: who can still list the object knows that it is the former.
    """
    code = error.response["Error"].get("Code", "")
    if code == "InvalidObjectState":
        return Reason.ARCHIVED, True
    if code.startswith("KMS."):
        return Reason.ACCESS_DENIED, True
    if status(error) == 403 and code in ("AccessDenied", "403", ""):  # an answer to HEAD has no text
        return Reason.ACCESS_DENIED, False
    return Reason.NONE, False


def said(error: Exception) -> str:
    """An error's own words. They may repeat an endpoint of the environment, with a password in it."""
    return redact(str(error))


def status(error: ClientError) -> int:
    """HTTP status; 0 if the answer had none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def translate(error: ClientError, uri: str) -> Exception:
    """Our error for a server's refusal: missing object, outage after botocore's retries, or refused for good."""
    code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
    problem = f"{uri}: {code} {message}".rstrip().removesuffix(".")
    if code == "NoSuchKey" or (status(error) == 404 and code != "NoSuchBucket"):
        return FileNotFoundError(uri)
    if (status(error) >= 500 and code != "NotImplemented") or status(error) in (408, 429) or code == "RequestTimeout":
        return StorageOutageError(f"{problem}; run again later")
    return StorageRefusedError(
        f"{problem}; {_REMEDIES.get(code, 'check credentials, permissions, endpoint and region')}"
    )
