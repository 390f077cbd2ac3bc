"""Safe expressions for rules: arithmetic, comparisons and a few functions over documented names.

Evaluated with `simpleeval`, narrowed further: only the syntax below, only names that are documented, numbers small
enough to be harmless. What can be checked is checked when a file is loaded, not in the middle of a run.
"""

from __future__ import annotations

import ast
import functools
import math
import re
import string
from collections.abc import Callable, Mapping
from typing import Any, Literal

from simpleeval import DEFAULT_OPERATORS, InvalidExpression, SimpleEval  # type: ignore[import-untyped]

from agenttune.errors import UserError
from agenttune.protocol.invalid_values import did_you_mean

MAX_LENGTH = 500
"""Characters of an expression (guess: nobody reads a longer one)."""
MAX_EXPONENT = 64.0
"""Largest exponent of `**`; operands are floats, so that no power grows without limit."""
SYNTAX = (
    *(ast.Expression, ast.Expr, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.IfExp),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
    *(ast.Call, ast.Name, ast.Load, ast.Attribute, ast.Constant),
)
FORMAT = re.compile(r",?(\.\d{1,2})?[defg%]?")
"""Formats that a rationale may use, such as `.3g`."""

Names = Mapping[str, Any]
"""What an expression can see: values, and groups of values by name."""
ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
Kind = Literal["number", "text", "either"]
"""What an expression comes to; a truth value counts as a number."""


class Text(str):
    """The meaning of a documented name whose value is text; those of all others are numbers."""


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > MAX_EXPONENT:
        raise UserError(f"exponent {exponent:g} is above {MAX_EXPONENT:g}")
    return math.pow(base, exponent)


def _of_numbers(operator: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*operands: Any) -> Any:
        for operand in operands:
            if not isinstance(operand, (int, float)):
                raise UserError(f"arithmetic needs numbers, not {operand!r}")
        return operator(*operands)

    return apply


ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd)
OPERATORS: dict[Any, Callable[..., Any]] = {
    **{kind: operator for kind, operator in DEFAULT_OPERATORS.items() if kind in SYNTAX},
    **{kind: _of_numbers(DEFAULT_OPERATORS[kind]) for kind in ARITHMETIC},
    ast.Pow: _of_numbers(_power),
}


class Evaluator(SimpleEval):  # type: ignore[misc]
    """`simpleeval` with only the nodes of `SYNTAX`; a dot reads from a documented group and from nothing else."""

    nodes: dict[type, Callable[..., Any]]

    def __init__(self, names: Names, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(operators=OPERATORS, functions=dict(functions), names=dict(names))
        self.nodes = {kind: handler for kind, handler in self.nodes.items() if kind in SYNTAX}
        self.nodes[ast.Attribute] = self._field

    def value(self, text: str) -> Any:
        """As `evaluate`, of several expressions over the same names."""
        try:
            return self.eval(text, previously_parsed=parse(text))
        except UserError as error:
            raise UserError(f"`{text}`: {error.message}", field=error.field) from None
        except (ArithmeticError, ValueError, TypeError, InvalidExpression) as error:
            raise UserError(f"`{text}`: {error}") from None

    def _field(self, node: ast.Attribute) -> Any:
        group = self.names.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if not isinstance(group, Mapping) or node.attr not in group:
            raise UserError(f"{ast.unparse(node)} is not known")
        return group[node.attr]


def evaluate(text: str, names: Names, functions: Mapping[str, Callable[..., Any]]) -> Any:
    """The value of an expression.

    Raises:
        UserError: It cannot be computed; says which expression and why.
    """
    return Evaluator(names, functions).value(text)


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> ast.expr:
    """The syntax tree of an expression.

    Raises:
        UserError: It is too long, is not an expression, or uses syntax that is not allowed.
    """
    if len(text) > MAX_LENGTH:
        raise UserError(f"an expression has at most {MAX_LENGTH} characters, this one has {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"`{text}` is not an expression: {getattr(error, 'msg', error)}") from None
    for node in ast.walk(tree):
        if not isinstance(node, SYNTAX):
            raise UserError(f"`{text}`: {type(node).__name__} is not allowed in an expression")
    return tree.body


def check(text: str, names: Names, functions: Mapping[str, Any]) -> None:
    """Check syntax, every name against what will be there, and that numbers and text are not taken for each other.

    Raises:
        UserError: As `parse`, or a name, field or function that is not known; suggests the right one. Or text stands
            where only a number can.
    """
    tree = parse(text)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    owners = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _check_field(node, names)
        elif isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
            raise UserError(f"`{text}`: only functions can be called, not {ast.unparse(node.func)}")
        elif isinstance(node, ast.Name) and id(node) not in owners:
            _check_name(node.id, functions if id(node) in called else names, bool(id(node) in called))
    _check_kind(tree, names)


def _check_kind(node: ast.expr, names: Names) -> Kind:
    """What an expression whose names are known comes to.

    Raises:
        UserError: Text stands where only a number can, or would be compared with a number.
    """
    if isinstance(node, ast.Constant):
        return "text" if isinstance(node.value, str) else "number"
    if isinstance(node, ast.Name):
        return "text" if isinstance(names[node.id], Text) else "number"
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return "text" if isinstance(names[node.value.id][node.attr], Text) else "number"
    parts = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    kinds = [_check_kind(part, names) for part in parts if isinstance(part, ast.expr)]
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, sides, sides[1:]):  # noqa: B905 - one side more than operators
            _check_comparison(operator, left, right, names)
    elif isinstance(node, (ast.BinOp, ast.UnaryOp)) and not isinstance(node.op, ast.Not) and "text" in kinds:
        raise UserError(f"`{ast.unparse(node)}`: arithmetic needs numbers, and there is text in it")
    elif isinstance(node, (ast.BoolOp, ast.IfExp)):
        results = set(kinds[1:] if isinstance(node, ast.IfExp) else kinds)
        return results.pop() if len(results) == 1 else "either"
    return "number"


def _check_comparison(operator: ast.cmpop, left: ast.expr, right: ast.expr, names: Names) -> None:
    kinds = {_check_kind(left, names), _check_kind(right, names)}
    if kinds == {"number", "text"}:
        shown = _both(left, right)
        text = left if _check_kind(left, names) == "text" else right
        raise UserError(f"{shown} are never the same or in an order: `{ast.unparse(text)}` is text, the other a number")
    if kinds == {"text"} and isinstance(operator, ORDERED):
        raise UserError(f"{_both(left, right)} are both text, which has no order; compare them by == or !=")


def _both(left: ast.expr, right: ast.expr) -> str:
    return f"`{ast.unparse(left)}` and `{ast.unparse(right)}`"


def _check_name(name: str, known: Mapping[str, Any], is_call: bool) -> None:
    if name not in known:
        what = "function" if is_call else "name"
        raise UserError(f"unknown {what} {name!r}{did_you_mean(name, known)}", field=name, allowed=sorted(known))
    if not is_call and isinstance(known[name], Mapping):
        fields = ", ".join(f"{name}.{f}" for f in known[name])
        raise UserError(f"{name!r} is a group; use one of {fields}", field=name, allowed=list(known[name]))


def _check_field(node: ast.Attribute, names: Names) -> None:
    group = names.get(node.value.id) if isinstance(node.value, ast.Name) else None
    if not isinstance(group, Mapping):
        groups = sorted(name for name, value in names.items() if isinstance(value, Mapping))
        raise UserError(f"`{ast.unparse(node)}`: a dot is only allowed after {', '.join(groups)}", allowed=groups)
    if node.attr not in group:
        hint = did_you_mean(node.attr, group)
        raise UserError(
            f"unknown name {ast.unparse(node)!r}{hint}; known: {', '.join(group)}", field=node.attr, allowed=list(group)
        )


def fields_of(template: str) -> list[tuple[str, str, str]]:
    """A template's parts: text before, expression (may be empty), format.

    Raises:
        UserError: Unbalanced braces, or a format that is not a plain number format.
    """
    try:
        parts = [(text, name or "", spec or "", conv) for text, name, spec, conv in string.Formatter().parse(template)]
    except ValueError as error:
        raise UserError(f"{template!r} is not a template: {error}") from None
    for _, name, spec, conversion in parts:
        if conversion or not FORMAT.fullmatch(spec):
            raise UserError(f"{{{name}:{spec}}}: a format looks like .3g or .2f")
    return [part[:3] for part in parts]


def render(template: str, names: Names, functions: Mapping[str, Callable[..., Any]]) -> str:
    """Fill `{expression:format}` in a template.

    Raises:
        UserError: As `evaluate`.
    """
    out = []
    for text, name, spec in fields_of(template):
        out.append(text)
        if name:
            value = evaluate(name, names, functions)
            out.append(format(value, spec) if isinstance(value, (int, float)) else str(value))
    return "".join(out)


def is_true(value: Any) -> bool:
    """Whether a condition holds; an unknown number (NaN) never makes it true."""
    return bool(value) and not (isinstance(value, float) and math.isnan(value))
