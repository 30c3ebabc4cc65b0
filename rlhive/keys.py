"""TensorDict key constants, and the conversion between nested keys and column names.

The names are those of TorchRL's TED format: a transition has ``observation`` and ``action`` at the root and
``("next", observation | reward | terminated | truncated | done)`` below it.
"""

OBSERVATION = "observation"
ACTION = "action"
EPISODE = "episode"
PIXELS = "pixels"
DEPTH = "depth"
SEGMENTATION = "segmentation"
STEP_COUNT = "step_count"
SUCCESS = "success"
NEXT = "next"
REWARD = "reward"
TERMINATED = "terminated"
TRUNCATED = "truncated"
DONE = "done"
RETURN_TO_GO = "return_to_go"
ACTION_CHUNK = "action_chunk"
ACTION_CHUNK_MASK = "action_chunk_mask"
SOURCE = "source"
TASK = "task"
SLICE_MASK = ("collector", "mask")

NEXT_REWARD = (NEXT, REWARD)
NEXT_TERMINATED = (NEXT, TERMINATED)
NEXT_TRUNCATED = (NEXT, TRUNCATED)
NEXT_DONE = (NEXT, DONE)

#: Root flags. They are False in every row of a TED TensorDict, so they are never stored.
END_FLAGS = (DONE, TERMINATED, TRUNCATED)

NestedKey = str | tuple[str, ...]


def key_to_column(key: NestedKey) -> str:
    """Return the column name of a nested key: ``("next", "reward")`` becomes ``"next.reward"``.

    Args:
        key: A string or a tuple of strings. No string may contain a dot.

    Raises:
        ValueError: A part is empty, is not printable, or contains a dot, which :func:`column_to_key` would split.
    """
    parts = (key,) if isinstance(key, str) else tuple(key)
    if not parts or any(not part or "." in part or not part.isprintable() for part in parts):
        msg = f"Key {key!r} cannot name a column: expected printable, non-empty parts without a dot."
        raise ValueError(msg)
    return ".".join(parts)


def column_to_key(column: str) -> NestedKey:
    """Return the nested key of a column name, the inverse of :func:`key_to_column`."""
    parts = tuple(column.split("."))
    return parts[0] if len(parts) == 1 else parts


def is_main_column(column: str) -> bool:
    """Return whether a column is an observation, action, reward or success, of which learning needs every value."""
    return column.split(".")[0] in (OBSERVATION, ACTION, SUCCESS) or column == key_to_column(NEXT_REWARD)
