"""Which episodes of a version: chosen by expression, predicate, id or share, from the episode table alone.

A selection maps each split to the ids of its episodes, in rising order. An expression is parsed into operations of
Arrow and never run as code::

    "success and return > -40 and split in ['expert', 'medium']"
"""

import ast
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhive import keys
from rlhive.data._arrow import EPISODE_FIELDS
from rlhive.errors import InvalidExpression, SchemaMismatch

Selection = dict[str, np.ndarray]

EPISODE_COLUMNS = tuple(field.name for field in EPISODE_FIELDS)
METADATA = "metadata"

_MAX_LENGTH = 10_000
_RETURN = "return_"  # `return` is a keyword of the grammar that is borrowed here
_TOKENS = re.compile(r"""("[^"]*"|'[^']*')|\breturn\b""")
_COMPARE = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def build_selection(table: pa.Table, splits: Sequence[str]) -> Selection:
    """Return the selection of whole splits.

    Args:
        table: The episode table's ``episode`` and ``split``.
        splits: Their names, in order.
    """
    ids, names = table[keys.EPISODE].to_numpy(), table["split"]
    return {split: np.sort(ids[pc.equal(names, split).to_numpy()]) for split in splits}


def apply_selection(table: pa.Table, selection: Mapping[str, np.ndarray]) -> pa.Table:
    """Return the rows of the selected episodes, in rising order of ids, each with the split that it now is in."""
    split_of = {int(episode): split for split, ids in selection.items() for episode in ids}
    table = table.filter(pc.is_in(table[keys.EPISODE], pa.array(list(split_of), pa.int64())))
    splits = pa.array([split_of[episode] for episode in table[keys.EPISODE].to_pylist()], pa.string())
    place = table.column_names.index("split")
    return table.set_column(place, table.schema.field("split"), splits)


def locate_episodes(ids: np.ndarray, selection: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return where the selected episodes stand in ``ids``, split by split, int64."""
    order = np.argsort(ids, kind="stable")
    wanted = np.concatenate([np.empty(0, np.int64), *selection.values()])
    return order[np.searchsorted(ids, wanted, sorter=order)]


def locate_rows(ids: np.ndarray, selection: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the rows of the selected episodes, split by split and in rising order of ids, int64.

    Args:
        ids: The episode of every row; each episode's rows stand together.
        selection: The episodes.
    """
    order = np.argsort(ids, kind="stable")
    wanted = np.concatenate([np.empty(0, np.int64), *selection.values()])
    first = np.searchsorted(ids, wanted, "left", sorter=order)
    length = np.searchsorted(ids, wanted, "right", sorter=order) - first
    offset = first - (np.cumsum(length) - length)
    return order[np.arange(length.sum()) + np.repeat(offset, length)]


def intersect_selection(selection: Mapping[str, np.ndarray], ids: Iterable[int]) -> Selection:
    """Return the selection without the episodes that are not among ``ids``; its splits stay, even if empty."""
    wanted = np.fromiter(ids, np.int64)
    return {split: own[np.isin(own, wanted)] for split, own in selection.items()}


def require_episodes(selection: Mapping[str, np.ndarray], ids: Iterable[int]) -> list[int]:
    """Return the ids, once each.

    Raises:
        SchemaMismatch: One is not in the selection.
    """
    chosen = [int(episode) for episode in ids]
    known = {int(episode) for own in selection.values() for episode in own}
    missing = next((episode for episode in chosen if episode not in known), None)
    if missing is not None:
        msg = f"There is no episode {missing} in splits {', '.join(selection)}. Look at dataset.episodes."
        raise SchemaMismatch(msg)
    return chosen


def find_referenced_columns(expression: str) -> list[str]:
    """Return the columns of the episode table that an expression needs.

    Raises:
        InvalidExpression: It cannot be parsed.
    """
    names = {_name(node) for node in ast.walk(_parse(expression)) if isinstance(node, (ast.Name, ast.Attribute))}
    return sorted({METADATA if name.startswith(f"{METADATA}.") else name for name in names} & set(EPISODE_COLUMNS))


def select_where(table: pa.Table, condition: str | pc.Expression) -> list[int]:
    """Return the ids of the episodes that meet a condition.

    Args:
        table: The episode table, with the columns that the condition needs and ``episode``.
        condition: An Arrow expression, or text: columns of the table, numbers, strings, ``True``, ``False``,
            ``None``, ``and or not``, ``< <= > >= == !=``, ``in``, ``is None``, ``+ - * /`` and parentheses.
            ``metadata.operator`` is the user's own metadata of that name. A comparison with what is missing is false.

    Raises:
        InvalidExpression: It cannot be parsed, names no column, or compares what cannot be compared.
    """
    said = condition if isinstance(condition, str) else str(condition)
    if isinstance(condition, str):
        tree = _parse(condition)
        for name in {_name(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}:
            if name.startswith(f"{METADATA}."):
                table = _with_metadata(table, name, condition)
        condition = _compile(tree, said)
    try:
        return table.filter(condition)[keys.EPISODE].to_pylist()
    except (pa.ArrowException, ValueError, TypeError) as error:
        problem = str(error).splitlines()[0]
        msg = f"Condition {said!r} cannot be computed: {problem}. Columns are {', '.join(EPISODE_COLUMNS)}."
        raise InvalidExpression(msg) from error


def select_by(table: pa.Table, predicate: Callable[[dict[str, Any]], bool]) -> list[int]:
    """Return the ids of the episodes whose row a function accepts; ``metadata`` comes as a dict."""
    rows = table.select([name for name in EPISODE_COLUMNS if name in table.column_names]).to_pylist()
    return [row[keys.EPISODE] for row in rows if predicate(row | {METADATA: json.loads(row[METADATA])})]


def _parse(text: str) -> ast.expr:
    if len(text) > _MAX_LENGTH:
        msg = f"Condition of {len(text)} characters: expected at most {_MAX_LENGTH}. Use filter() with a function."
        raise InvalidExpression(msg)
    source = _TOKENS.sub(lambda match: match.group(1) or _RETURN, text)
    try:
        return ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        msg = f"Condition {text!r}: expected something like 'success and return > -40', got {error}."
        raise InvalidExpression(msg) from error


def _compile(tree: ast.expr, text: str) -> pc.Expression:
    try:
        compiled = _node(tree)
    except RecursionError as error:
        msg = f"Condition {text[:80]!r}… is nested too deeply. Use filter() with a function."
        raise InvalidExpression(msg) from error
    except _Refused as error:
        msg = f"Condition {text!r}: {error.args[0]}"
        raise InvalidExpression(msg) from error
    return compiled if isinstance(compiled, pc.Expression) else pc.scalar(bool(compiled))


class _Refused(Exception):
    pass


def _node(node: ast.expr) -> Any:
    """Return what a node means: an Arrow expression, or a plain constant."""
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str()):
            return node.value
        case ast.List() | ast.Tuple():
            return [_node(item) for item in node.elts]
        case ast.Name() | ast.Attribute():
            return _field(_name(node))
        case ast.BoolOp():
            combine = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            parts = [_expression(_node(item)) for item in node.values]
            result = parts[0]
            for part in parts[1:]:
                result = combine(result, part)
            return result
        case ast.UnaryOp(op=ast.Not()):
            return ~_expression(_node(node.operand))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return -node.operand.value
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            return _ARITHMETIC[type(node.op)](_expression(_node(node.left)), _expression(_node(node.right)))
        case ast.Compare():
            return _comparison(node)
    what = f"{type(node).__name__} is not part of the language"
    msg = f"{what}: expected columns, constants, comparisons, and, or, not, in. Use filter() with a function."
    raise _Refused(msg)


def _comparison(node: ast.Compare) -> pc.Expression:
    operands = [_node(item) for item in (node.left, *node.comparators)]
    result = None
    for kind, left, right in zip(node.ops, operands[:-1], operands[1:], strict=True):
        part = _compare(kind, left, right)
        result = part if result is None else result & part
    return result


def _compare(kind: ast.cmpop, left: Any, right: Any) -> pc.Expression:
    if right is None or left is None:
        null = _expression(left if right is None else right).is_null()
        return ~null if isinstance(kind, (ast.NotEq, ast.IsNot)) else null
    if isinstance(kind, (ast.In, ast.NotIn)):
        found = _expression(left).isin(right if isinstance(right, list) else [right])
        return found if isinstance(kind, ast.In) else ~found
    if type(kind) not in _COMPARE:
        msg = "'is' compares with None only: expected == or !=."
        raise _Refused(msg)
    return _COMPARE[type(kind)](_expression(left), _expression(right))


def _expression(value: Any) -> pc.Expression:
    if isinstance(value, list):
        msg = "a list stands only after 'in'."
        raise _Refused(msg)
    return value if isinstance(value, pc.Expression) else pc.scalar(value)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    name = node.id if isinstance(node, ast.Name) else "?"
    return "return" if name == _RETURN else name


def _field(name: str) -> pc.Expression:
    if name not in EPISODE_COLUMNS and not name.startswith(f"{METADATA}."):
        msg = f"there is no column {name}. Columns are {', '.join(EPISODE_COLUMNS)}."
        raise _Refused(msg)
    return pc.field(name)


def _with_metadata(table: pa.Table, name: str, text: str) -> pa.Table:
    """Add a column with one value of everybody's metadata; null where there is none."""
    found = []
    for row in table[METADATA].to_pylist():
        value = json.loads(row)
        for part in name.split(".")[1:]:
            value = value.get(part) if isinstance(value, dict) else None
        found.append(value)
    try:
        return table.append_column(name, pa.array(found))
    except (pa.ArrowException, TypeError) as error:
        msg = f"Condition {text!r}: {name} is not of one plain type: {error}. Use filter() with a function."
        raise InvalidExpression(msg) from error
