"""The small changes that a mutation run makes to a module's source, one at a time."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}

ARITHMETIC = {
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

PAIRS = """min max, argmin argmax, amin amax, minimum maximum, clamp_min clamp_max, any all, sin cos, arcsin arccos,
floor ceil, sum mean, zeros ones, zeros_like ones_like, new_zeros new_ones, real imag, square sqrt"""
SWAPPED = {name: other for pair in PAIRS.split(",") for name, other in (pair.split(), reversed(pair.split()))}
"""Names of functions, methods and attributes, and what stands in their place."""


@dataclass(frozen=True)
class Mutant:
    """The bytes from `start` to `end` of a source, `before`, replaced by `after`.

    `text` is the line where they begin, without its indentation, and `column` their place in it.
    """

    start: int
    end: int
    line: int
    text: str
    column: int
    before: str
    after: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutants(source: bytes) -> list[Mutant]:
    """All changes to a module, in the order of the source.

    Strings, annotations, decorators and what reads the command line stay as they are: they decide no number.
    """
    lines = source.splitlines(keepends=True)
    starts = [sum(map(len, lines[:number])) for number in range(len(lines))]
    found = []
    for visited in _visited(ast.parse(source)):
        for old, new in _changes(visited):
            line = lines[old.lineno - 1]
            start = starts[old.lineno - 1] + old.col_offset
            end = starts[old.end_lineno - 1] + old.end_col_offset
            after = ast.unparse(new)
            if isinstance(old, ast.expr) and not isinstance(new, ast.Constant):
                after = f"({after})"
            text, column = line.decode().strip(), len(line[: old.col_offset].decode().lstrip())
            found.append(Mutant(start, end, old.lineno, text, column, source[start:end].decode(), after))
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end))


def _visited(node: ast.AST) -> Iterator[ast.AST]:
    left_out: list[ast.AST | None] = []
    match node:
        case ast.FunctionDef(name="main") | ast.JoinedStr():
            return
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return
        case ast.FunctionDef() | ast.ClassDef():
            left_out = [*node.decorator_list, getattr(node, "returns", None)]
        case ast.arg() | ast.AnnAssign():
            left_out = [node.annotation]
    yield node
    for child in ast.iter_child_nodes(node):
        if not any(child is other for other in left_out):
            yield from _visited(child)


def _changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Pairs of what goes, `node` or a part of it, and what comes in its place."""
    match node:
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield node, ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield node, ast.Constant(2 * value or 1.0)
        case ast.Compare():
            for place, operator in enumerate(node.ops):
                for other in COMPARISONS[type(operator)]:
                    yield node, _with(node, ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])
        case ast.BinOp() | ast.AugAssign() if type(node.op) in ARITHMETIC:
            yield node, _with(node, op=ARITHMETIC[type(node.op)]())
        case ast.BoolOp():
            yield node, _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            yield node, node.operand
        case ast.Name() if node.id in SWAPPED:
            yield node, _with(node, id=SWAPPED[node.id])
        case ast.Attribute() if node.attr in SWAPPED:
            yield node, _with(node, attr=SWAPPED[node.attr])
        case ast.Attribute(attr="T" | "mT"):
            yield node, node.value
        case ast.Call(func=ast.Attribute(attr="conj")):
            yield node, node.func.value
        case ast.IfExp():
            yield node, _with(node, body=node.orelse, orelse=node.body)
        case ast.Return(value=ast.expr()):
            yield node, ast.Return(ast.Constant(None))
        case ast.If() | ast.While() if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            yield node.test, ast.UnaryOp(ast.Not(), node.test)
    match node:
        case ast.AugAssign() | ast.Assign(targets=[ast.Subscript()]) | ast.Expr(value=ast.Call()):
            yield node, ast.Pass()


def _with(node: ast.AST, **changed: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in changed.items():
        setattr(new, name, value)
    return new
