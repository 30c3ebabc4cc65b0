"""Requests to the Hub: retries while it is busy, and one clear error for every refusal.

`huggingface_hub` raises different errors for different calls, many of them wrapped two or three times. The innermost
error determines which error of RLHive is raised. An answer that the client cannot read makes it raise whatever its code
comes upon; that is one error here. Messages never quote a request, and a token in the Hub's answer is masked.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

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

from rlhive._text import printable
from rlhive.data import _store
from rlhive.data.hub._guard import LONGEST_WAIT_S, Guard, guarded, hub_url
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
_BUSY = (408, 429, 500, 502, 503, 504)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


def with_retries(call: Callable[_Arguments, _Answer], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Answer:
    """Call a function, and repeat the call while the Hub is busy (429 and 5xx) or the connection breaks.

    Only for requests that may be sent twice. There is no retry if the host name does not resolve or the port is closed.
    An answer that is longer or shorter than it should be is asked for once more. The answers take no longer than the
    limits of :mod:`rlhive.data.hub._guard`.

    Raises:
        HubUnreachableError: The time of the call was over.
    """
    with guarded() as guard:
        try:
            return _call_repeatedly(guard, call, *args, **kwargs)
        except Exception as error:
            if guard.expired and not isinstance(error, RLHiveError):
                raise guard.make_error() from None
            raise


def _call_repeatedly(
    guard: Guard, call: Callable[_Arguments, _Answer], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Answer:
    was_damaged = False
    for delay in BACKOFF_S:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            cause = _innermost_error(error)
            status = _status_code(cause)
            is_damaged = (guard.is_damaged or _has_wrong_length(error)) and not was_damaged
            is_busy = status in _BUSY or _is_transport_error(cause, "ReadError", "RemoteProtocolError")
            if guard.expired or not (is_busy or is_damaged):
                raise
            was_damaged, guard.is_damaged = was_damaged or is_damaged, False
            seconds = 0.0 if is_damaged else _retry_after(cause, default=delay)
            logger.warning("The Hub answered %s: trying again in %g s", status or "nothing whole", seconds)
        guard.extend(seconds)
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
            translated = _translate_unreadable(error, repo_id, subject)
        if translated is None:
            raise
        shows_harm = _contains_token(error) or printable(error, multiline=True) != str(error)
        raise translated from None if shows_harm else error


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
            f"Ask for access on {hub_url()}/datasets/{repo_id}, then log in: hf auth login"
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
        msg = f"{repo_id}: the Hub at {hub_url()} cannot be reached ({type(error).__name__}). Check the network."
        return HubUnreachableError(msg)
    return None


def _translate_unreadable(error: Exception, repo_id: str, subject: str) -> RLHiveError | None:
    """Return RLHive's error for an answer that the client could not read; None if the client is not where it arose."""
    if not _arose_in_client(error):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        try:
            with _store.translate_disk_errors(Path(constants.HF_HUB_CACHE)):
                raise error
        except RLHiveError as translated:
            return translated
        except OSError:
            pass
    if _is_transport_error(error, "TooManyRedirects"):
        msg = f"{repo_id}: the Hub at {hub_url()} redirects in a circle ({subject}). Check HF_ENDPOINT and the network."
        return HubRefusedError(msg)
    reason = _TOKEN.sub("hf_***", printable(f"{type(error).__name__}: {error}"))[:200]
    msg = (
        f"{repo_id}: expected {subject} from {hub_url()}, got an answer that no Hub gives ({reason}). A proxy or the "
        "login page of a network may have answered: check HF_ENDPOINT and the network, and try again."
    )
    return HubRefusedError(msg)


def _arose_in_client(error: BaseException) -> bool:
    """Whether an error arose in the Hub's client or below it, and not in RLHive's own code."""
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__", "")).startswith(("huggingface_hub.", "httpx", "httpcore")):
            return True
        trace = trace.tb_next
    return False


def _has_wrong_length(error: BaseException) -> bool:
    """Whether a file did not have the length that the Hub had told: the client raises a bare OSError then."""
    return type(error) is OSError and error.errno is None and _arose_in_client(error)


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
    reason = _TOKEN.sub("hf_***", printable(error.server_message or "no reason"))[:300]
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
    is_number = re.fullmatch(r"[0-9]{1,9}", retry_after, re.ASCII)
    return min(float(retry_after), LONGEST_WAIT_S) if is_number else default


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
