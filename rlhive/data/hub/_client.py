"""How the Hub is spoken to: patience while it is busy, and one clear sentence for everything that it refuses.

What `huggingface_hub` raises depends on the call, and much of it is wrapped two or three times; the innermost answer
decides here. Nothing of a request is ever quoted, and a token that an answer quotes is blotted out.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
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
from huggingface_hub.utils import disable_progress_bars

from rlhive.errors import DatasetNotFound, HubAccessDenied, HubConflict, HubRefused, HubUnreachable, RLHiveError

logger = logging.getLogger(__name__)

#: Seconds waited before the second, third, … attempt, unless the Hub itself says how long.
BACKOFF_S = (1.0, 2.0, 4.0, 8.0)
LONGEST_WAIT_S = 300.0

_Answer = TypeVar("_Answer")
_BUSY = (408, 429, 500, 502, 503, 504)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")


def with_retries(call: Callable[..., _Answer], *args: Any, **kwargs: Any) -> _Answer:
    """Call, and call again while the Hub is busy (429 and 5xx) or the connection breaks.

    Only for requests that may be sent twice. A name that does not resolve or a port where nobody listens is final.
    """
    for wait in (*BACKOFF_S, None):
        try:
            return call(*args, **kwargs)
        except Exception as error:
            cause = _innermost(error)
            status = _status(cause)
            if wait is None or not (status in _BUSY or _is_transport(cause, "ReadError", "RemoteProtocolError")):
                raise
            seconds = _asked_wait(cause, wait)
            logger.warning("The Hub answered %s: trying again in %g s", status or "nothing", seconds)
        time.sleep(seconds)
    raise AssertionError


@contextlib.contextmanager
def translate_errors(repo_id: str, what: str) -> Iterator[None]:
    """Turn whatever `huggingface_hub` raises in the block into one of RLHive's errors.

    Args:
        repo_id: Whom the question is about.
        what: What was asked for, in words.
    """
    try:
        yield
    except (RLHiveError, KeyboardInterrupt):
        raise
    except Exception as error:
        translated = _translated(_innermost(error), repo_id, what)
        if translated is None:
            raise
        raise translated from None if _quotes_token(error) else error


@contextlib.contextmanager
def bars(progress: bool) -> Iterator[None]:
    """Show the Hub's own progress bars in the block, or none; HF_HUB_DISABLE_PROGRESS_BARS has the last word."""
    quiet = not progress and constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    with disable_progress_bars() if quiet else contextlib.nullcontext():
        yield


def _translated(error: BaseException, repo_id: str, what: str) -> RLHiveError | None:
    """Return the sentence for an error, None for one that is none of the Hub's."""
    page = f"{_host()}/datasets/{repo_id}"
    if isinstance(error, OfflineModeIsEnabled):
        return HubUnreachable(f"{repo_id}: HF_HUB_OFFLINE forbids asking the Hub ({what}). Unset it and try again.")
    if isinstance(error, GatedRepoError):
        msg = (
            f"{repo_id} is gated: expected the token of a user whom its owner let in, got {_token_in_words()}. "
            f"Ask for access on {page}, then log in: hf auth login"
        )
        return HubAccessDenied(msg)
    if isinstance(error, RepositoryNotFoundError):
        msg = (
            f"The Hub has no dataset {repo_id}, or it is private and {_token_in_words()} may not see it. "
            "Check the name, or log in: hf auth login"
        )
        return DatasetNotFound(msg)
    if isinstance(error, (RevisionNotFoundError, RemoteEntryNotFoundError)):
        return DatasetNotFound(f"{repo_id}: the Hub has no {what}. List what there is: rlhive versions {repo_id}")
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, repo_id, what)
    if _is_transport(error) or isinstance(error, (ConnectionError, TimeoutError)):
        msg = f"{repo_id}: the Hub at {_host()} cannot be reached ({type(error).__name__}). Check the network."
        return HubUnreachable(msg)
    return None


def _refusal(error: HfHubHTTPError, repo_id: str, what: str) -> RLHiveError:
    status = _status(error)
    if status == 401:
        msg = f"{repo_id}: expected a valid token, got {_token_in_words()}. Log in (hf auth login) or set HF_TOKEN."
        return HubAccessDenied(msg)
    if status == 403:
        msg = (
            f"{repo_id}: {_token_in_words()} may not do this ({what}). "
            "Use one with the write permission for that namespace: hf auth login"
        )
        return HubAccessDenied(msg)
    if status == 412:
        msg = f"{repo_id}: somebody else committed meanwhile, expected an unchanged main. Push again."
        return HubConflict(msg)
    if status in _BUSY:
        msg = f"{repo_id}: the Hub still answers {status} after {len(BACKOFF_S) + 1} attempts. Try again later."
        return HubUnreachable(msg)
    said = _TOKEN.sub("hf_***", str(error.server_message or "no reason"))[:300]
    return HubRefused(f"{repo_id}: the Hub refused {what} with status {status}: {said}. Mend that and try again.")


def _innermost(error: BaseException) -> BaseException:
    """The answer itself, below the errors that the client wraps it in."""
    deciding, inner = error, error
    while inner is not None:
        if isinstance(inner, (HfHubHTTPError, OfflineModeIsEnabled)) or _is_transport(inner):
            deciding = inner
            if not isinstance(inner, HfHubHTTPError):
                break
        inner = inner.__cause__
    return deciding


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _asked_wait(error: BaseException, default: float) -> float:
    """Seconds to wait: what Retry-After says, within reason."""
    asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return min(float(asked), LONGEST_WAIT_S) if asked.isdigit() else default


def _is_transport(error: BaseException, *kinds: str) -> bool:
    """Whether nobody answered. By name: the client's HTTP library is no dependency of ours."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & set(kinds or ("TransportError",)))


def _token_in_words() -> str:
    return "the token in use" if get_token() else "no token"


def _quotes_token(error: BaseException) -> bool:
    token = get_token()
    return bool(token) and token in f"{error!r} {error.__cause__!r} {error.__context__!r}"


def _host() -> str:
    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
