"""Conditions on episodes: an expression is parsed into an Arrow expression, and never run as code.

::

    "success and return > -40 and split in ['expert', 'medium']"
"""

import ast
import itertools
import json
import operator
import re
from collections.abc import Callable
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from rlhive import keys
from rlhive.data.versions._selection import EPISODE_COLUMNS, METADATA, SCORE_COLUMNS, find_null_columns
from rlhive.errors import InvalidExpressionError

_MAX_LENGTH = 10_000
_RETURN = "return_"  # stands for the column `return`, which is a keyword of Python's grammar
_STRING_OR_RETURN = re.compile(r"""("[^"]*"|'[^']*')|\breturn\b""")
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], pc.Expression]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_COLUMNS_HINT = f"Columns are {', '.join(EPISODE_COLUMNS)}. Scores are {', '.join(SCORE_COLUMNS)}."
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], pc.Expression]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def select_where(table: pa.Table, condition: str | pc.Expression) -> list[int]:
    """Return the ids of the episodes that meet a condition.

    Args:
        table: The episode table: ``episode`` and the columns and scores that the condition names.
        condition: An Arrow expression, or text. Text can have columns of the table, numbers, strings, ``True``,
            ``False``, ``None``, ``and or not``, ``< <= > >= == !=``, ``in``, ``is None``, ``+ - * /`` and parentheses.
            ``metadata.operator`` is the entry ``operator`` of the user's metadata. A comparison with a missing value
            is false.

    Raises:
        InvalidExpressionError: The condition cannot be parsed, names an unknown column, compares values of types that
            cannot be compared, or needs a return, success or seed that was not recorded for any of the episodes.
    """
    try:
        if isinstance(condition, str):
            _require_recorded(table, condition)
            table, condition = _compile(table, condition)
        selected = table.filter(condition)
        if not len(selected) and len(table) and not len(table.filter(condition.is_valid())):
            _refuse_unknown(str(condition), [], len(table))
        return selected[keys.EPISODE].to_pylist()
    except InvalidExpressionError:
        raise
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        text = str(condition)
        msg = f"Condition {text!r} cannot be computed: {reason}. {_COLUMNS_HINT}"
        raise InvalidExpressionError(msg) from error


def select_by_mask(table: pa.Table, mask: pa.Array, description: str) -> list[int]:
    """Return the ids of the episodes for which a mask is True.

    Raises:
        InvalidExpressionError: The mask is null for every episode, since it was computed from what was not recorded.
    """
    if len(mask) and mask.null_count == len(mask):
        _refuse_unknown(description, [], len(table))
    return table.filter(mask)[keys.EPISODE].to_pylist()


def _require_recorded(table: pa.Table, text: str) -> None:
    """Refuse a condition on a column that is null for all episodes, unless it says what becomes of a missing value."""
    null_columns = find_null_columns(table)
    if not null_columns:
        return
    nodes = list(ast.walk(_parse(text)))
    compared_with_none = {
        _column_name(value)
        for node in nodes
        if isinstance(node, ast.Compare)
        for pair in itertools.pairwise([node.left, *node.comparators])
        for value, other in (pair, pair[::-1])
        if isinstance(other, ast.Constant) and other.value is None and isinstance(value, ast.Name)
    }
    names = {_column_name(node) for node in nodes if isinstance(node, ast.Name)} - compared_with_none
    unknown = [name for name in null_columns if name in names]
    if unknown:
        _refuse_unknown(text, unknown, len(table))


def _refuse_unknown(text: str, columns: list[str], num_episodes: int) -> NoReturn:
    names = " and ".join(columns) or "what it asks for"
    msg = (
        f"Condition {text!r}: {names} {'were' if len(columns) > 1 else 'was'} not recorded for any of the "
        f"{num_episodes} episodes, so that it is unknown which of them meet it. Use another column or metadata."
    )
    raise InvalidExpressionError(msg)


def _compile(table: pa.Table, text: str) -> tuple[pa.Table, pc.Expression]:
    """Return the table, with the entries of the metadata that a condition names as columns, and the expression."""
    tree = _parse(text)
    for name in sorted({_column_name(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}):
        if name.startswith(f"{METADATA}."):
            table = _add_metadata_column(table, name, text)
    return table, _ExpressionCompiler(text).compile(tree)


def find_referenced_columns(text: str) -> list[str]:
    """Return the columns of the episode table and the scores that a condition names, sorted.

    Raises:
        InvalidExpressionError: The condition cannot be parsed.
    """
    nodes = ast.walk(_parse(text))
    names = {_column_name(node) for node in nodes if isinstance(node, (ast.Name, ast.Attribute))}
    columns = {*EPISODE_COLUMNS, *SCORE_COLUMNS}
    return sorted({METADATA if name.startswith(f"{METADATA}.") else name for name in names} & columns)


def _parse(text: str) -> ast.expr:
    """Return the syntax tree of a condition."""
    if len(text) > _MAX_LENGTH:
        msg = f"Condition of {len(text)} characters: expected at most {_MAX_LENGTH}. Use filter() with a function."
        raise InvalidExpressionError(msg)
    source = _STRING_OR_RETURN.sub(lambda match: match.group(1) or _RETURN, text)
    try:
        return ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        msg = f"Condition {text!r}: expected something like 'success and return > -40', got {error}."
        raise InvalidExpressionError(msg) from error


def _column_name(node: ast.expr) -> str:
    """Return the dotted name of a node; "?" stands for anything else than a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    name = node.id if isinstance(node, ast.Name) else "?"
    return ".".join(["return" if name == _RETURN else name, *reversed(parts)])


class _ExpressionCompiler:
    """Compiles the syntax tree of a condition into an Arrow expression.

    Args:
        text: The condition, for error messages.
    """

    def __init__(self, text: str):
        self._text = text

    def compile(self, tree: ast.expr) -> pc.Expression:
        """Return the expression of a condition.

        Raises:
            InvalidExpressionError: The tree has a node that is not part of the language.
        """
        try:
            value = self._evaluate(tree)
        except RecursionError as error:
            msg = f"Condition {self._text[:80]!r}… is nested too deeply. Use filter() with a function."
            raise InvalidExpressionError(msg) from error
        return value if isinstance(value, pc.Expression) else pc.scalar(bool(value))

    def _evaluate(self, node: ast.expr) -> Any:
        """Return an Arrow expression, a constant, or a list of constants."""
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str()):
                return node.value
            case ast.List() | ast.Tuple():
                return [self._evaluate(item) for item in node.elts]
            case ast.Name() | ast.Attribute():
                return self._column(_column_name(node))
            case ast.BoolOp():
                return self._boolean(node)
            case ast.UnaryOp(op=ast.Not()):
                return ~self._expression(node.operand)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                return _ARITHMETIC[type(node.op)](self._expression(node.left), self._expression(node.right))
            case ast.Compare():
                return self._comparison_chain(node)
        return self._refuse(
            f"{type(node).__name__} is not part of the language: expected columns, constants, comparisons, and, or, "
            "not, in. Use filter() with a function."
        )

    def _expression(self, node: ast.expr) -> pc.Expression:
        return self._to_expression(self._evaluate(node))

    def _to_expression(self, value: Any) -> pc.Expression:
        if isinstance(value, list):
            self._refuse("a list can stand only after 'in'.")
        return value if isinstance(value, pc.Expression) else pc.scalar(value)

    def _column(self, name: str) -> pc.Expression:
        if name not in (*EPISODE_COLUMNS, *SCORE_COLUMNS) and not name.startswith(f"{METADATA}."):
            self._refuse(f"there is no column {name}. {_COLUMNS_HINT}")
        return pc.field(name)

    def _boolean(self, node: ast.BoolOp) -> pc.Expression:
        combine = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        first, *others = [self._expression(item) for item in node.values]
        result = first
        for expression in others:
            result = combine(result, expression)
        return result

    def _comparison_chain(self, node: ast.Compare) -> pc.Expression:
        """Return ``a < b <= c`` as ``(a < b) & (b <= c)``."""
        operands = [self._evaluate(item) for item in (node.left, *node.comparators)]
        first, *others = [
            self._comparison(comparison, left, right)
            for comparison, left, right in zip(node.ops, operands[:-1], operands[1:], strict=True)
        ]
        result = first
        for expression in others:
            result = result & expression
        return result

    def _comparison(self, comparison: ast.cmpop, left: Any, right: Any) -> pc.Expression:
        if left is None or right is None:
            is_null = self._to_expression(left if right is None else right).is_null()
            return ~is_null if isinstance(comparison, (ast.NotEq, ast.IsNot)) else is_null
        if isinstance(comparison, (ast.In, ast.NotIn)):
            is_in = self._to_expression(left).isin(self._constants(right))
            return is_in if isinstance(comparison, ast.In) else ~is_in
        if type(comparison) not in _COMPARISONS:
            self._refuse("'is' compares with None only: expected == or !=.")
        return _COMPARISONS[type(comparison)](self._to_expression(left), self._to_expression(right))

    def _constants(self, value: Any) -> list[Any]:
        values = value if isinstance(value, list) else [value]
        if any(isinstance(item, pc.Expression | list) for item in values):
            self._refuse("after 'in' comes a list of constants, such as ['expert', 'medium'].")
        return values

    def _refuse(self, problem: str) -> NoReturn:
        msg = f"Condition {self._text!r}: {problem}"
        raise InvalidExpressionError(msg)


def _add_metadata_column(table: pa.Table, name: str, text: str) -> pa.Table:
    """Return the table with an entry of the metadata as a column; null where an episode does not have it."""
    values = [_find_entry(json.loads(row), name.split(".")[1:]) for row in table[METADATA].to_pylist()]
    try:
        return table.append_column(name, pa.array(values))
    except (pa.ArrowException, TypeError) as error:
        msg = f"Condition {text!r}: {name} does not have one simple type: {error}. Use filter() with a function."
        raise InvalidExpressionError(msg) from error


def _find_entry(metadata: Any, path: list[str]) -> Any:
    """Return the value at a path of nested dicts; None if there is none."""
    value = metadata
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value
