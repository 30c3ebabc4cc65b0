"""Requests to the Hub: retries while it is busy, and one clear error for every refusal.

`huggingface_hub` raises different errors for different calls, many of them wrapped two or three times. The innermost
error determines which error of RLHive is raised. Messages never quote a request, and a token in the Hub's answer is
masked.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from rlhive.errors import (
    DatasetNotFoundError,
    HubAccessDeniedError,
    HubConflictError,
    HubRefusedError,
    HubUnreachableError,
    RLHiveError,
)

logger = logging.getLogger(__name__)

#: Seconds before the second, third, … attempt, unless the Hub sends Retry-After.
BACKOFF_S = (1.0, 2.0, 4.0, 8.0)
#: Longest time to wait for the Hub's Retry-After, in seconds.
LONGEST_WAIT_S = 300.0

_BUSY = (408, 429, 500, 502, 503, 504)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


def with_retries(call: Callable[_Arguments, _Answer], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Answer:
    """Call a function, and repeat the call while the Hub is busy (429 and 5xx) or the connection breaks.

    Only for requests that may be sent twice. There is no retry if the host name does not resolve or the port is closed.
    """
    for delay in BACKOFF_S:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            cause = _innermost_error(error)
            status = _status_code(cause)
            if status not in _BUSY and not _is_transport_error(cause, "ReadError", "RemoteProtocolError"):
                raise
            seconds = _retry_after(cause, default=delay)
            logger.warning("The Hub answered %s: trying again in %g s", status or "nothing", seconds)
        time.sleep(seconds)
    return call(*args, **kwargs)


@contextlib.contextmanager
def translate_errors(repo_id: str, subject: str) -> Iterator[None]:
    """Raise one of RLHive's errors for every error of `huggingface_hub` in the block.

    Args:
        repo_id: Repository of the request, for the message.
        subject: What is requested, for the message: ``"tag v1.0.0"`` for example.
    """
    try:
        yield
    except (RLHiveError, KeyboardInterrupt):
        raise
    except Exception as error:
        translated = _translate_error(_innermost_error(error), repo_id, subject)
        if translated is None:
            raise
        raise translated from None if _contains_token(error) else error


@contextlib.contextmanager
def progress_bars(progress: bool) -> Iterator[None]:
    """Show or hide the Hub client's progress bars in the block; HF_HUB_DISABLE_PROGRESS_BARS takes precedence."""
    hide = not progress and constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    with disable_progress_bars() if hide else contextlib.nullcontext():
        yield


def _translate_error(error: BaseException, repo_id: str, subject: str) -> RLHiveError | None:
    """Return RLHive's error for an error of the Hub's client; None for any other error."""
    if isinstance(error, OfflineModeIsEnabled):
        msg = f"{repo_id}: HF_HUB_OFFLINE forbids requests to the Hub ({subject}). Unset it and try again."
        return HubUnreachableError(msg)
    if isinstance(error, GatedRepoError):
        msg = (
            f"{repo_id} is gated: expected the token of a user with access, got {_describe_token()}. "
            f"Ask for access on {_hub_url()}/datasets/{repo_id}, then log in: hf auth login"
        )
        return HubAccessDeniedError(msg)
    if isinstance(error, RepositoryNotFoundError):
        msg = (
            f"The Hub has no dataset {repo_id}, or it is private and {_describe_token()} may not see it. "
            "Check the name, or log in: hf auth login"
        )
        return DatasetNotFoundError(msg)
    if isinstance(error, (RevisionNotFoundError, RemoteEntryNotFoundError)):
        return DatasetNotFoundError(
            f"{repo_id}: the Hub has no {subject}. List the versions: rlhive versions {repo_id}"
        )
    if isinstance(error, HfHubHTTPError):
        return _translate_refusal(error, repo_id, subject)
    if _is_transport_error(error) or isinstance(error, (ConnectionError, TimeoutError)):
        msg = f"{repo_id}: the Hub at {_hub_url()} cannot be reached ({type(error).__name__}). Check the network."
        return HubUnreachableError(msg)
    return None


def _translate_refusal(error: HfHubHTTPError, repo_id: str, subject: str) -> RLHiveError:
    """Return RLHive's error for an HTTP status."""
    status = _status_code(error)
    if status == 401:
        msg = f"{repo_id}: expected a valid token, got {_describe_token()}. Log in (hf auth login) or set HF_TOKEN."
        return HubAccessDeniedError(msg)
    if status == 403:
        msg = (
            f"{repo_id}: {_describe_token()} may not do this ({subject}). "
            "Use a token with write permission for that namespace: hf auth login"
        )
        return HubAccessDeniedError(msg)
    if status == 412:
        msg = f"{repo_id}: somebody else committed meanwhile, expected an unchanged main branch. Push again."
        return HubConflictError(msg)
    if status in _BUSY:
        msg = f"{repo_id}: the Hub still answers {status} after {len(BACKOFF_S) + 1} attempts. Try again later."
        return HubUnreachableError(msg)
    reason = _TOKEN.sub("hf_***", str(error.server_message or "no reason"))[:300]
    return HubRefusedError(f"{repo_id}: the Hub refused {subject} with status {status}: {reason}.")


def _innermost_error(error: BaseException) -> BaseException:
    """Return the error that the client wrapped: the first transport error of the chain, or its last HTTP error."""
    innermost = error
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OfflineModeIsEnabled) or _is_transport_error(cause):
            return cause
        if isinstance(cause, HfHubHTTPError):
            innermost = cause
        cause = cause.__cause__
    return innermost


def _status_code(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _retry_after(error: BaseException, *, default: float) -> float:
    """Return how many seconds to wait: the Hub's Retry-After up to LONGEST_WAIT_S, or the default without one."""
    retry_after = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return min(float(retry_after), LONGEST_WAIT_S) if retry_after.isdigit() else default


def _is_transport_error(error: BaseException, *class_names: str) -> bool:
    """Whether an error is of one of the classes, any transport error by default: the connection failed.

    Classes are compared by name, because the client's HTTP library is not a dependency of RLHive.
    """
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & set(class_names or ("TransportError",)))


def _describe_token() -> str:
    return "the token in use" if get_token() else "no token"


def _contains_token(error: BaseException) -> bool:
    """Whether an error or one of the errors that it shows with it contains the token."""
    token = get_token()
    return bool(token) and str(token) in f"{error!r} {error.__cause__!r} {error.__context__!r}"


def _hub_url() -> str:
    """Return the Hub's address without credentials."""
    parts = urlsplit(constants.ENDPOINT)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"
