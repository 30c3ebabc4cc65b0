"""TensorDict key constants and the rule that maps a nested key to a column name and back.

TorchRL's TED names are used everywhere: a transition is ``observation``, ``action`` at the root and
``("next", observation | reward | terminated | truncated | done)`` below it.
"""

OBSERVATION = "observation"
ACTION = "action"
EPISODE = "episode"
PIXELS = "pixels"
DEPTH = "depth"
STEP_COUNT = "step_count"
SUCCESS = "success"
NEXT = "next"
REWARD = "reward"
TERMINATED = "terminated"
TRUNCATED = "truncated"
DONE = "done"
RETURN_TO_GO = "return_to_go"

NEXT_REWARD = (NEXT, REWARD)
NEXT_TERMINATED = (NEXT, TERMINATED)
NEXT_TRUNCATED = (NEXT, TRUNCATED)
NEXT_DONE = (NEXT, DONE)

#: Root flags: False at every row of a TED TensorDict, so they are never stored.
END_FLAGS = (DONE, TERMINATED, TRUNCATED)

NestedKey = str | tuple[str, ...]


def key_to_column(key: NestedKey) -> str:
    """Return the column name of a nested key: ``("next", "reward")`` becomes ``"next.reward"``.

    Args:
        key: A string or a tuple of strings, none of which holds a dot.

    Raises:
        ValueError: A part is empty or holds a dot, so that the name could not be turned back, or is not printable.
    """
    parts = (key,) if isinstance(key, str) else tuple(key)
    if not parts or any(not part or "." in part or not part.isprintable() for part in parts):
        msg = f"Key {key!r} cannot name a column: expected printable, non-empty parts without a dot. Rename the key."
        raise ValueError(msg)
    return ".".join(parts)


def column_to_key(column: str) -> NestedKey:
    """Return the nested key of a column name, the inverse of :func:`key_to_column`."""
    parts = tuple(column.split("."))
    return parts[0] if len(parts) == 1 else parts
