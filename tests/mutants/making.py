"""Make the mutants of a module: each differs from it in one expression or statement. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_CALCULATED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_CONDITIONS: Final = {"where", "and_", "or_", "filter", "values", "replace"}
"""Calls in which each argument is a condition or a value: SQL conditions and UPDATE values."""
_UNTESTED: Final = {"log", "warnings"}
"""Names whose calls are not mutated, since log messages and warnings are not tested."""


@dataclass(frozen=True, slots=True)
class Mutant:
    line: int
    what: str  # "a < b  ->  a <= b", on one line
    source: str  # of the whole module


def mutants(source: str) -> list[Mutant]:
    """Return every mutant of `source`, in the order of its lines."""
    tree = ast.parse(source)
    _mark_untested(tree)
    found = (
        _replace(source, node, changed)
        for node in ast.walk(tree)
        if not hasattr(node, "untested")
        for changed in _changes(node)
    )
    return sorted(filter(None, found), key=lambda mutant: (mutant.line, mutant.what))


def _mark_untested(tree: ast.AST) -> None:
    """Mark the nodes that are not mutated.

    These are annotations, docstrings, logging, decorators, base classes, assertions and code for
    type checkers.
    """
    for node in ast.walk(tree):
        for part in _untested_parts(node):
            for inner in ast.walk(part):
                inner.untested = True  # type: ignore[attr-defined]


def _untested_parts(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Expr(value=ast.Constant()):
            yield node
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
            if name in _UNTESTED:
                yield node
        case ast.AnnAssign(annotation=annotation):
            yield annotation
        case ast.arg(annotation=ast.AST() as annotation):
            yield annotation
        case ast.FunctionDef(returns=returns, decorator_list=decorators):
            yield from decorators
            if returns:
                yield returns
        case ast.ClassDef(decorator_list=decorators, bases=bases):
            yield from (*decorators, *bases)
        case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.Assert():
            yield node


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=right) if type(op) in _COMPARED:
            yield ast.Compare(left, [_COMPARED[type(op)]()], right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _CALCULATED:
            yield ast.BinOp(left, _CALCULATED[type(op)](), right)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in _CONDITIONS:
            yield from _with_an_argument_less(node)
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign() | ast.Continue():
            yield ast.Pass()
        case ast.Return(value=ast.AST()):
            if not isinstance(node.value, ast.Constant):
                yield ast.Return(ast.Constant(None))


def _with_an_argument_less(call: ast.Call) -> Iterator[ast.AST]:
    if len(call.args) + len(call.keywords) < 2:
        return
    for number in range(len(call.args)):
        yield ast.Call(call.func, call.args[:number] + call.args[number + 1 :], call.keywords)
    for number in range(len(call.keywords)):
        kept = call.keywords[:number] + call.keywords[number + 1 :]
        yield ast.Call(call.func, call.args, kept)


def _replace(source: str, node: ast.AST, changed: ast.AST) -> Mutant | None:
    segment = ast.get_source_segment(source, node)
    if segment is None or not hasattr(node, "lineno"):
        return None
    text = ast.unparse(ast.fix_missing_locations(changed))
    text = text if isinstance(changed, ast.stmt) else f"({text})"
    lines = source.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    octets = source.encode()
    mutated = octets[:start] + text.encode() + octets[start + len(segment.encode()) :]
    try:
        ast.parse(mutated)
    except SyntaxError:
        return None
    before, after = (" ".join(part.split()) for part in (segment, text))
    return Mutant(node.lineno, f"{before[:120]}  ->  {after[:120]}", mutated.decode())
