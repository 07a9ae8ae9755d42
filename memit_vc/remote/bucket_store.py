"""A bucket as obstore sees it: opened with the cloud's own credentials, its errors put in our words.

No text of the other end is repeated: answers and addresses of a cloud hold key ids, signatures and tokens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from memit_vc.errors import RemoteError, UsageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = {
    "s3": "Amazon S3 or a store that speaks its language",
    "gs": "Google Cloud Storage",
    "az": "Azure Blob Storage",
}
PART = 5 << 20
"""Bytes of a part of a large upload. With it the digest that S3 gives a large object can be computed here."""
_ADDRESS = re.compile(r"(s3|gs|az)://([a-z0-9][a-z0-9._-]{1,62})(?:/(.*))?", re.DOTALL)
_PREFIX = re.compile(r"[\w.=+,-]+(?:/[\w.=+,-]+)*")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_STATUS = re.compile(r"\b([45]\d\d) [A-Z][a-z]+")
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": (),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Where the client looks for the address of another server than the cloud's."""
_ENDPOINT = re.compile(
    r"https?://(?:[^\s/@]+@)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:/[\w./~-]*)?", re.ASCII
)
_LOGIN = {
    "s3": "`aws configure`, AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with a key, a SAS token or an identity",
}


def is_bucket(url: str) -> bool:
    return url.partition("://")[0] in SCHEMES and "://" in url


def checked_bucket(url: str) -> str:
    """The address as it is kept: SCHEME://bucket/prefix. UsageError for any other; it may hold a secret and is not
    repeated.
    """
    found = _ADDRESS.fullmatch(url.rstrip("/"))
    prefix = found[3] if found else None
    if found is None or (prefix and not _PREFIX.fullmatch(prefix)) or {".", ".."} & {*(prefix or "").split("/")}:
        raise UsageError(
            f"{url.partition('://')[0]}:// is not followed by the name of a bucket and a path",
            hint="Write s3://bucket/path, gs://bucket/path or az://container/path, without user, key or query. "
            "Credentials come from the cloud's own settings.",
        )
    return f"{found[1]}://{found[2]}" + (f"/{prefix}" if prefix else "")


def require_package(url: str) -> None:
    """RemoteError without obstore, which only buckets need."""
    if find_spec("obstore") is None:
        raise RemoteError(f"{url}: needs the package obstore", hint="Install it: pip install 'memit-vc[s3]'")


def open_store(url: str) -> ObjectStore:
    """The store of a checked address. UsageError for settings that cannot be used."""
    from obstore import store

    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    for name in _ENDPOINTS[scheme]:
        if (endpoint := os.environ.get(name)) and not _ENDPOINT.fullmatch(endpoint):
            raise UsageError(
                f"{name} is not the address of a server", hint="Write it as https://host or http://host:port."
            )
    # options of the HTTP client would put those of the environment (AWS_ALLOW_HTTP) out of force
    common: dict[str, Any] = {
        "prefix": prefix or None,
        "retry_config": {"max_retries": 6, "retry_timeout": timedelta(minutes=3)},
    }
    try:
        if scheme == "gs":
            return store.GCSStore(bucket, **common)
        if scheme == "az":
            return store.AzureStore(bucket, **common)
        return store.S3Store(bucket, **common, **_aws())
    except Exception:  # its text may repeat a setting, which may be a secret
        raise UsageError(
            f"{url}: the settings for {SCHEMES[scheme]} are not usable", hint=f"Look at {_LOGIN[scheme]}."
        ) from None


def _aws() -> dict[str, Any]:
    """Region and credentials as the AWS client finds them: profiles, SSO and roles, which obstore alone cannot read.

    Without that client, or where it finds none, obstore looks itself: at the environment and at the machine's role.
    """
    try:
        import boto3
    except ImportError:
        return {}
    session = boto3.Session()
    region = {} if session.region_name is None else {"region": session.region_name}
    credentials = session.get_credentials()
    if credentials is None:
        return region

    def provide() -> dict[str, Any]:
        now = credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(timezone.utc) + timedelta(minutes=10),
        }

    return {**region, "credential_provider": provide}


@contextmanager
def bucket_errors(url: str, doing: str) -> Iterator[None]:
    """What the store raises, as RemoteError. What is absent stays FileNotFoundError, and a lost race its own error."""
    from obstore import exceptions

    scheme = url.partition("://")[0]
    try:
        yield
    except (exceptions.PreconditionError, exceptions.AlreadyExistsError, FileNotFoundError):
        raise
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError):
        raise RemoteError(
            f"{url}: {doing} is not allowed", hint=f"Log in as someone who may: {_LOGIN[scheme]}."
        ) from None
    except (exceptions.BaseError, OSError, ValueError) as error:
        text = str(error)
        said = [match[1] for match in (_STATUS.search(text), _CODE.search(text)) if match]
        if not said:
            said = ["there is no answer" if "error sending request" in text else "it failed"]
        raise RemoteError(
            f"{url}: {doing}: {' '.join(said)}",
            hint=f"Run the command again. If it goes on, check address and credentials ({_LOGIN[scheme]}).",
        ) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how the client ends on a setting that makes no address
            raise
        raise RemoteError(
            f"{url}: {doing}: the client does not understand a setting",
            hint="Look at the region, and at the address of the server if you gave one.",
        ) from None
