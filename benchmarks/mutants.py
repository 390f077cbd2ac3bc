"""Small faults in a module, one at a time: a boundary moved, a call left out, a condition turned round.

Made from the syntax tree. Left alone are annotations, docstrings and the words of messages: what a message says is not
worth a test of each word, but that it is cleaned or cut is, so calls are left out there too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any"}
KEPT_CALLS = frozenset(
    {
        "add",
        "append",
        "cast",
        "dict",
        "enumerate",
        "extend",
        "field",
        "format",
        "frozenset",
        "get",
        "getattr",
        "hasattr",
        "hash",
        "int",
        "isinstance",
        "issubclass",
        "iter",
        "join",
        "len",
        "list",
        "map",
        "next",
        "open",
        "pairwise",
        "pop",
        "property",
        "range",
        "repr",
        "set",
        "str",
        "sum",
        "super",
        "tuple",
        "type",
        "update",
        "zip",
    }
)
"""Calls whose argument in their place is an error of types at once, or says nothing."""
CLEANING_METHODS = frozenset({"strip", "lstrip", "rstrip", "lower", "upper", "casefold", "copy"})


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        operator: What kind it is.
        line: Of the statement that has it.
        function: The function that holds it; empty: the module or a class body.
        before: The statement as written.
        after: And with the fault.
        source: The whole module with the fault, as a tree.
    """

    operator: str
    line: int
    function: str
    before: str
    after: str
    source: ast.Module


def sample(source: str, count: int | None, draw: Random, only: str = "") -> tuple[list[Mutant], int]:
    """Faults of a module, in the order of the file, and how many there are in all.

    Args:
        source: The module.
        count: How many to draw; None: all.
        draw: With which random numbers.
        only: A pattern that the kind of fault has to match.
    """
    places = list(_places(ast.parse(source)))
    kinds = [(p, n, kind) for p in places for n, (kind, _) in enumerate(_faults(p.node, p.is_words))]
    known = [(place, number) for place, number, kind in kinds if re.search(only, kind)]
    drawn = range(len(known)) if count is None else sorted(draw.sample(range(len(known)), min(count, len(known))))
    return [_mutant(source, *known[place]) for place in drawn], len(known)


def counting(source: str, hit: str) -> ast.Module:
    """The module, each of whose functions calls `hit` with the line of every statement before it runs."""

    class Counting(ast.NodeTransformer):
        inside = 0

        def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
            self.inside += 1
            changed = self.generic_visit(node)
            self.inside -= 1
            return changed

        visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

        def generic_visit(self, node: ast.AST) -> ast.AST:
            super().generic_visit(node)
            for name in ("body", "orelse", "finalbody"):
                block = getattr(node, name, None)
                if self.inside and isinstance(block, list):
                    setattr(node, name, [one for statement in block for one in (_call(hit, statement), statement)])
            return node

    return ast.fix_missing_locations(Counting().visit(ast.parse(source)))  # type: ignore[no-any-return]


def _call(name: str, statement: ast.stmt) -> ast.stmt:
    called = ast.Call(ast.Name(name, ast.Load()), [ast.Constant(statement.lineno)], [])
    return ast.copy_location(ast.Expr(called), statement)


@dataclass(frozen=True)
class _Place:
    number: int
    node: ast.AST
    function: str
    statement: int
    is_words: bool


def _places(tree: ast.Module) -> Iterator[_Place]:
    """Nodes that may be changed, numbered alike in each parse of the same source."""
    count = 0

    def visit(node: ast.AST, function: str, statement: int, is_words: bool) -> Iterator[_Place]:
        nonlocal count
        number, count = count, count + 1
        if isinstance(node, ast.stmt):
            statement = number
        yield _Place(number, node, function, statement, is_words)
        is_words = is_words or isinstance(node, (ast.JoinedStr, ast.Raise))
        for name, value in ast.iter_fields(node):
            children = value if isinstance(value, list) else [value]
            inner = function
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and name == "body":
                inner = node.name
            hidden = name in {"annotation", "returns", "decorator_list", "format_spec"}
            for child in children:
                if isinstance(child, ast.AST):
                    skipped = hidden or _is_typing(child)
                    for place in visit(child, inner, statement, is_words):
                        if not skipped:
                            yield place

    yield from visit(tree, "", 0, False)


def _is_typing(node: ast.AST) -> bool:
    """A docstring, an import, or an alias of a type."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id == "__all__" or isinstance(node.value, ast.Subscript)
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _mutant(source: str, place: _Place, number: int) -> Mutant:
    tree = ast.parse(source)
    nodes = {p.number: p.node for p in _places(tree)}
    node = nodes[place.number]
    statement = nodes.get(place.statement, tree)
    before = _line_of(statement)
    operator, replacement = list(_faults(node, place.is_words))[number]
    placed: ast.AST = node.target if isinstance(node, ast.comprehension) else node
    ast.copy_location(replacement, placed)
    _Replacing(node, replacement).visit(tree)
    ast.fix_missing_locations(tree)
    line = getattr(statement, "lineno", 0)
    after = _line_of(replacement if statement is node else statement)
    return Mutant(operator, line, place.function, before, after, tree)


def _line_of(statement: ast.AST) -> str:
    """A statement as code; of one with a body its first line."""
    text = ast.unparse(statement)
    is_long = isinstance(statement, (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef, ast.ClassDef))
    return text.split("\n", 1)[0] if is_long else text


class _Replacing(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else super().generic_visit(node)


def _faults(node: ast.AST, is_words: bool) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Call):
        yield from _in_call(node, is_words)
    if is_words:
        return
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                yield "comparison", ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield "and/or", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for place in range(len(node.values)):
            rest = node.values[:place] + node.values[place + 1 :]
            yield "condition left out", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield "sign or not", node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield "arithmetic", ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield "arithmetic", ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)
    elif isinstance(node, (ast.If, ast.IfExp)):
        for value in (True, False):
            test = ast.copy_location(ast.Constant(value), node.test)
            if isinstance(node, ast.If):
                yield "branch", ast.If(test, node.body, node.orelse)
            else:
                yield "branch", ast.IfExp(test, node.body, node.orelse)
    elif isinstance(node, ast.Constant):
        yield from _in_constant(node)
    elif isinstance(node, ast.comprehension):
        for place in range(len(node.ifs)):
            ifs = node.ifs[:place] + node.ifs[place + 1 :]
            yield "filter left out", ast.comprehension(node.target, node.iter, ifs, node.is_async)
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        yield "slice left out", node.value
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield "returns None", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield "statement left out", ast.Pass()
    elif isinstance(node, (ast.Break, ast.Continue)):
        yield "break/continue", ast.Continue() if isinstance(node, ast.Break) else ast.Break()


def _in_call(node: ast.Call, is_words: bool) -> Iterator[tuple[str, ast.AST]]:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if name in OPPOSITES:
        yield "opposite", ast.Call(ast.copy_location(ast.Name(OPPOSITES[name], ast.Load()), node), *_parts(node))
    if name in CLEANING_METHODS and isinstance(node.func, ast.Attribute):
        yield f"call left out: {name}", node.func.value
    is_class = name[:1].isupper()
    if node.args and not is_class and name not in KEPT_CALLS and not isinstance(node.args[0], ast.Starred):
        yield f"call left out: {name}", node.args[0]
    if not is_words:
        for place, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                keywords = node.keywords[:place] + node.keywords[place + 1 :]
                yield "argument left out", ast.Call(node.func, node.args, keywords)


def _parts(node: ast.Call) -> tuple[list[ast.expr], list[ast.keyword]]:
    return node.args, node.keywords


def _in_constant(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant", ast.Constant(value + 1)
    elif isinstance(value, float):
        yield "constant", ast.Constant(value * 2 if value else 1.0)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
