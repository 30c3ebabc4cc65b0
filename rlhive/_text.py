"""Text from outside, made safe to show: a terminal, a browser or a reader could take some characters for commands."""

import re

#: Control characters, surrogates, marks that change the direction of text, line separators, tags and the byte order
#: mark. A zero-width joiner and variation selectors stay: scripts and emoji need them.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)

_CODE_REPLACEMENTS = str.maketrans("`|", "'¦")


def printable(text: object, *, multiline: bool = False) -> str:
    r"""Return text with every character escaped that a terminal or a browser would act on instead of showing it.

    Args:
        text: A string, or a value that is converted to one.
        multiline: Whether newlines stay; on one line a newline and a tab become spaces.

    Example:
        >>> print(printable("clear\x1b[2J\u202e"))
        clear\x1b[2J\u202e
    """

    def escape_character(match: re.Match[str]) -> str:
        character = match[0]
        if character in "\n\r\t":
            return "\n" if multiline and character == "\n" else " "
        return character.encode("unicode_escape").decode()

    return _UNPRINTABLE.sub(escape_character, str(text))


def escape_markdown(text: object) -> str:
    """Return text that Markdown and HTML show unchanged, on one line: no tag, entity, link, table, list or heading."""
    line = " ".join(printable(text).split())
    escaped = re.sub(r"([\\`*_{}\[\]<>#|!&~$])", r"\\\1", line)
    escaped = re.sub(r":(?=[\w+-]+:)", r"\:", escaped)  # an emoji code
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", escaped)  # a list item, a rule or the underline of a heading


def to_inline_code(text: object) -> str:
    """Return text as Markdown's inline code, on one line; the characters that could end it are replaced."""
    return f"`{' '.join(printable(text).split()).translate(_CODE_REPLACEMENTS)}`"
