"""Secrets in text: tokens of the known forms, passwords in URLs, and arguments whose name says that they are secret.

The patterns are of RE2's syntax as well, so that Arrow can search whole columns for them.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MASK = "***"

#: Forms of tokens by who issues them.
_FORMS = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{22,}",
    "a GitLab token": r"\bgl(?:pat|ptt|dt|rt|cbt|oas)-[A-Za-z0-9_-]{20,}",
    "an AWS access key": r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
    "a Google key": r"\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{20,}|\bGOCSPX-[A-Za-z0-9_-]{20,}",
    "an Azure key": r"\b(?:AccountKey|SharedAccessKey|SharedAccessSignature)=[A-Za-z0-9+/=%-]{20,}",
    "an OpenAI or Anthropic key": r"\bsk-[A-Za-z0-9_-]*[A-Za-z0-9]{20,}",
    "a Weights & Biases key": r"\bwandb_v[0-9]_[A-Za-z0-9_]{20,}|\blocal-[0-9a-f]{40}\b",
    "a Slack token": r"\b(?:xox[a-z]|xapp)-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    "a Stripe key": r"\b(?:sk|rk|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,}",
    "a package index token": r"\bpypi-[A-Za-z0-9_-]{40,}|\bnpm_[A-Za-z0-9]{36,}",
    "a SendGrid key": r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    "a Telegram token": r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",
    "an API token": r"\b(?:dop_v1_|doo_v1_|r8_|dapi|hvs\.|hvb\.|shpat_|lin_api_|nvapi-|gsk_|tvly-|pat-|glsa_|rubygems_|"
    r"dckr_pat_|figd_|sntrys_|ATATT3x|NRAK-|AGE-SECRET-KEY-1)[A-Za-z0-9_.-]{20,}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a private key": r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----",
    "an authorization header": r"\b(?:[Bb]earer|BEARER) [A-Za-z0-9._~+/-]{20,}=*",
    "a URL with a password": r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/:@?#\"'<>*]{0,128}:[^\s/@\"'<>*][^\s/@\"'<>]{0,255}@",
}
#: All forms as one pattern, for Arrow.
ANY_FORM = "|".join(f"(?:{form})" for form in _FORMS.values())
_FORM = re.compile("|".join(f"(?P<g{index}>{form})" for index, form in enumerate(_FORMS.values())))
_KINDS = tuple(_FORMS)

#: Words that make a name secret wherever they stand, and as its last word.
_SECRET_WORDS = {"token", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "credential", "apikey"}
_LAST_WORDS = {"pass", "pwd", "auth", "authorization", "bearer", "cookie", "pat", "tokens", "credentials"}
#: Words of names that describe a secret, or count tokens of a language model.
_HARMLESS_WORDS = {
    *("num", "max", "min", "length", "len", "dim", "size", "count", "id", "ids", "type", "name", "embedding"),
    *("file", "path", "dir", "url", "sock", "rate"),
}
_KEY_OWNERS = {
    *("api", "access", "private", "secret", "auth", "account", "storage", "encryption", "signing", "ssh", "license"),
    *("wandb", "hf", "hub", "aws", "azure", "gcp", "google", "openai", "anthropic", "comet", "neptune", "mlflow", "db"),
}
#: The shortest value of an environment variable that is looked for in text.
_MIN_VALUE = 12
_URL_QUERY = re.compile(r"([?&;])([A-Za-z0-9_.-]+)=([^&;#\s\"']+)")


def find_secret(text: str, values: Iterable[str] = ()) -> str:
    """Return what kind of secret a text holds, ``"a GitHub token"`` for example; empty if it holds none.

    Args:
        text: The text.
        values: Secrets of this process, as :func:`own_secrets` returns them.
    """
    match = _FORM.search(text)
    if match is not None:
        return _KINDS[int(str(match.lastgroup)[1:])]
    return "a secret of this environment" if any(value in text for value in values) else ""


def own_secrets() -> list[str]:
    """Return the values of this process's environment variables whose names say that they are secret."""
    return [
        value
        for name, value in os.environ.items()
        if len(value) >= _MIN_VALUE and not value.startswith(("/", "~", ".")) and is_secret_name(name)
    ]


def is_secret_name(name: str) -> bool:
    """Whether the name of an argument, a variable or a field says that its value is a secret."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]
    if not words or set(words) & _HARMLESS_WORDS:
        return False
    if set(words) & _SECRET_WORDS or words[-1] in _LAST_WORDS:
        return True
    return words[-1] in ("key", "keys") and len(words) > 1 and words[-2] in _KEY_OWNERS


def mask_secrets(value: Any) -> Any:
    """Return a JSON-able value in which secrets are replaced by ``***``: known forms, and values of secret names."""
    if isinstance(value, str):
        return _mask_text(value)
    if isinstance(value, Mapping):
        return {
            mask_secrets(name): MASK
            if isinstance(item, str | int) and _names_secret(name, item)
            else mask_secrets(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_secrets(item) for item in value]
    return value


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which the values of secret arguments are replaced by ``***``."""
    return list(_mask_each(arguments))


def _mask_each(arguments: Sequence[str]) -> Iterator[str]:
    is_value = False
    for argument in arguments:
        name, separator, value = argument.partition("=")
        is_flag = argument.startswith("-")
        if is_value and not is_flag:
            yield MASK
            is_value = False
        elif separator and _names_secret(name, value):
            yield f"{name}={MASK}"
        else:
            is_value = is_flag and not separator and _names_secret(name, "x")
            yield _mask_text(argument)


def _names_secret(name: object, value: object) -> bool:
    """Whether a name says that its value is a secret; flags and empty values are none."""
    is_empty = isinstance(value, bool) or value in ("", None)
    last_word = re.split(r"[^A-Za-z0-9]+", str(name))[-1].lower()
    return not is_empty and (is_secret_name(str(name)) or (str(name).startswith("-") and last_word == "key"))


def _mask_text(text: str) -> str:
    def mask_form(match: re.Match[str]) -> str:
        scheme, separator, _ = match[0].partition("://")
        return f"{scheme}://{MASK}@" if separator and match[0].endswith("@") else MASK

    def mask_query(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}={MASK}" if is_secret_name(match[2]) else match[0]

    return _URL_QUERY.sub(mask_query, _FORM.sub(mask_form, text))
