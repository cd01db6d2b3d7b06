"""Mutants of a source file: one small planted bug each, found in the syntax tree and edited in the text.

What is never mutated: docstrings, messages, annotations, assertions, and defaults of fields, which a run's
config overrides (``test_fields_are_the_constructors_and_all_are_spelled_out``).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

SIGN, STOP, NORM = "sign", "stop-gradient", "normaliser"
COMPARE, ROLE, CONSTANT = "comparison", "role", "constant"

_BINARY: dict[type[ast.operator], tuple[tuple[str, str, str], ...]] = {  # operator, token, its replacements
    ast.Add: ((SIGN, "+", "-"),),
    ast.Sub: ((SIGN, "-", "+"),),
    ast.Mult: ((NORM, "*", "/"),),
    ast.Div: ((NORM, "/", "*"),),
    ast.FloorDiv: ((NORM, "//", "*"),),
    ast.Pow: ((NORM, "**", "*"),),
    ast.BitAnd: ((COMPARE, "&", "|"),),
    ast.BitOr: ((COMPARE, "|", "&"),),
}
_COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", ">"),
    ast.Gt: (">", "<"),
    ast.LtE: ("<=", ">="),
    ast.GtE: (">=", "<="),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_CALLED = {  # a function or method: operator, what takes its place
    "mean": (NORM, "sum"),
    "sum": (NORM, "mean"),
    "std": (NORM, "var"),
    "sqrt": (NORM, "square"),
    "square": (NORM, "abs"),
    "exp": (NORM, "expm1"),
    "expm1": (NORM, "exp"),
    "maximum": (COMPARE, "minimum"),
    "minimum": (COMPARE, "maximum"),
    "amax": (COMPARE, "amin"),
}
_NAMED = {  # a plain name that is called
    "max": (COMPARE, "min"),
    "min": (COMPARE, "max"),
    "group_mean": (NORM, "__import__('ablate.groups').groups.group_sum"),
    "group_sum": (NORM, "__import__('ablate.groups').groups.group_mean"),
    "group_std": (NORM, "(lambda a, g: group_std(a, g).square())"),
    "group_max": (COMPARE, "(lambda a, g: -group_max(-a, g))"),
    "mean_square": (NORM, "(lambda a, b: (a - b).square().flatten(1).sum(1))"),
}
_TWINS = {"t": "t_next", "t_next": "t", "better": "worse", "worse": "better"}
_REDUCED = {"mean", "sum", "std", "amax", "unbind"}
_RESHAPED = {"view", "flatten", "expand", "transpose", "stack", "reshape"}  # their numbers are axes
_META = {"dtype", "shape", "device", "dim"}  # of these all roles' velocities have the same
Edit = tuple[str, int, int, str]  # operator, first and last offset, new text


@dataclass(frozen=True)
class Mutant:
    """One planted bug.

    Attributes:
        path: the file, below the project's root.
        line: of the change.
        operator: the kind of bug.
        was, becomes: the changed lines.
        source: the whole mutated file.
        function: first and last line of the function around it (decorators included), None outside of any.
    """

    path: str
    line: int
    operator: str
    was: str
    becomes: str
    source: str
    function: tuple[int, int] | None

    def __str__(self) -> str:
        return f"{self.path}:{self.line} [{self.operator}]\n    - {self.was}\n    + {self.becomes}"


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of a file that differ and compile, in the order of its text."""
    finder = _Finder(source)
    found: dict[str, Mutant] = {}
    for operator, start, end, text in sorted(finder.edits(), key=lambda e: e[1:]):
        mutated = source[:start] + text + source[end:]
        first = source.rfind("\n", 0, start) + 1
        last = source.find("\n", end)
        line = source.count("\n", 0, start) + 1
        was, becomes = source[first:last], mutated[first : last + len(mutated) - len(source)]
        if mutated != source and mutated not in found and _compiles(mutated):
            shown = (" ".join(lines.split()) for lines in (was, becomes))
            found[mutated] = Mutant(path, line, operator, *shown, mutated, finder.function(line))
    return list(found.values())


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


class _Finder:
    """The edits of one file."""

    def __init__(self, source: str) -> None:
        self.source, self.tree = source, ast.parse(source)
        self.starts = [0]
        for line in source.split("\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.functions = [
            (min([n.lineno, *(d.lineno for d in n.decorator_list)]), n.end_lineno or n.lineno)
            for n in ast.walk(self.tree)
            if isinstance(n, ast.FunctionDef)
        ]

    def function(self, line: int) -> tuple[int, int] | None:
        """The outermost function that holds a line."""
        return min((f for f in self.functions if f[0] <= line <= f[1]), default=None)

    def span(self, node: ast.AST) -> tuple[int, int]:
        first, last = (getattr(node, name) for name in ("lineno", "end_lineno"))
        return (
            self.starts[first - 1] + getattr(node, "col_offset"),  # noqa: B009
            self.starts[last - 1] + getattr(node, "end_col_offset"),  # noqa: B009
        )

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.source[start:end]

    def edits(self) -> Iterator[Edit]:
        yield from self._visit(self.tree, None)

    def _visit(self, node: ast.AST, parent: ast.AST | None) -> Iterator[Edit]:
        if isinstance(
            node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.arguments
        ):
            return
        if isinstance(parent, ast.ClassDef) and isinstance(node, ast.Assign | ast.AnnAssign):
            return
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and _is_type(node):
            return
        yield from self._of(node, parent)
        for name, field in ast.iter_fields(node):
            if name in ("annotation", "returns", "bases", "targets", "type_params"):
                continue
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, ast.AST):
                    yield from self._visit(child, node)

    def _of(self, node: ast.AST, parent: ast.AST | None) -> Iterator[Edit]:
        match node:
            case ast.BinOp():
                yield from self._binary(node)
            case ast.UnaryOp(op=ast.USub() | ast.Not()) if not _is_axis(node, parent):
                start = self.span(node)[0]
                minus = isinstance(node.op, ast.USub)
                yield SIGN if minus else COMPARE, start, start + (1 if minus else 4), ""
            case ast.AugAssign(op=ast.Add() | ast.Sub()):
                start, end = self.span(node.target)[1], self.span(node.value)[0]
                swapped = self.source[start:end].translate(str.maketrans("+-", "-+"))
                yield SIGN, start, end, swapped
            case ast.Compare():
                sides = [node.left, *node.comparators]
                for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
                    if type(op) in _COMPARED:
                        yield from self._token(left, right, COMPARE, *_COMPARED[type(op)])
            case ast.BoolOp():
                tokens = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield from self._token(left, right, COMPARE, *tokens)
            case ast.If() | ast.IfExp() if not isinstance(node.test, ast.Compare | ast.UnaryOp):
                start, end = self.span(node.test)
                yield COMPARE, start, end, f"not ({self.source[start:end]})"
            case ast.Call():
                yield from self._call(node)
            case ast.FunctionDef(returns=ast.Name("Tensor")):
                yield from self._negated_returns(node)
            case ast.Attribute() | ast.Name() | ast.Subscript():
                yield from self._role(node, parent)
            case ast.Constant():
                yield from self._constant(node, parent)

    def _token(self, left: ast.AST, right: ast.AST, operator: str, old: str, new: str) -> Iterator[Edit]:
        """Replace the token between two operands, whatever brackets stand there as well."""
        start, end = self.span(left)[1], self.span(right)[0]
        at = self.source.index(old, start, end)
        yield operator, at, at + len(old), new

    def _binary(self, node: ast.BinOp) -> Iterator[Edit]:
        for operator, old, new in _BINARY.get(type(node.op), ()):
            yield from self._token(node.left, node.right, operator, old, new)
        if isinstance(node.op, ast.Div):  # and without it
            at = self.source.index("/", self.span(node.left)[1])
            yield NORM, at, self.span(node)[1], ""

    def _negated_returns(self, node: ast.FunctionDef) -> Iterator[Edit]:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Return) and inner.value is not None:
                yield from self._negated(inner.value)

    def _negated(self, value: ast.AST) -> Iterator[Edit]:
        start, end = self.span(value)
        if not re.match(r"-|\(", self.source[start:end]):
            yield SIGN, start, end, f"-({self.source[start:end]})"

    def _call(self, node: ast.Call) -> Iterator[Edit]:
        name, end = node.func, self.span(node)[1]
        if isinstance(name, ast.Name):
            if name.id in _NAMED:
                yield _NAMED[name.id][0], *self.span(name), _NAMED[name.id][1]
            if name.id in ("Loss", "Step"):
                yield from self._negated(node.args[0])
        if not isinstance(name, ast.Attribute):
            return
        dot = self.span(name.value)[1]
        dot = self.source.index(".", dot)
        if name.attr in _CALLED:
            operator, new = _CALLED[name.attr]
            yield operator, self.span(name)[1] - len(name.attr), self.span(name)[1], new
        if name.attr in ("detach", "abs"):
            yield STOP if name.attr == "detach" else NORM, dot, end, ""
        if name.attr == "clamp":
            yield COMPARE, dot, end, ""
            for word in node.keywords:
                start = self.span(word)[0]
                yield COMPARE, start, start + 3, {"min": "max", "max": "min"}[str(word.arg)]
        if name.attr == "no_grad":
            yield STOP, *self.span(name), "torch.enable_grad"
        if name.attr == "where" and len(node.args) == 3:
            start, last = self.span(node.args[1])[0], self.span(node.args[2])[1]
            yield COMPARE, start, last, f"{self.text(node.args[2])}, {self.text(node.args[1])}"
        if name.attr in _REDUCED and node.args and isinstance(node.args[0], ast.Constant):
            yield NORM, *self.span(node.args[0]), "0" if node.args[0].value else "1"

    def _role(self, node: ast.Attribute | ast.Name | ast.Subscript, parent: ast.AST | None) -> Iterator[Edit]:
        text = self.text(node)
        others = {kind: self._first(rf"ev\.{kind}_of\[[^]]*\]") for kind in ("v", "log_prob")}
        attribute = parent.attr if isinstance(parent, ast.Attribute) else ""
        if isinstance(node, ast.Attribute) and text in ("ev.v", "ev.log_prob") and attribute not in _META:
            if other := others[node.attr]:
                yield ROLE, *self.span(node), other
            if attribute != "detach":
                yield STOP, *self.span(node), f"{text}.detach()"
        if isinstance(node, ast.Subscript) and (kind := re.match(r"ev\.(v|log_prob)_of\[", text)):
            yield ROLE, *self.span(node), f"ev.{kind[1]}"
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in _TWINS:
            first, last = self.function(node.lineno) or (1, 1)
            around = self.source[self.starts[first - 1] : self.starts[last]]
            if re.search(rf"\b{_TWINS[node.id]}\b", around):
                yield ROLE, *self.span(node), _TWINS[node.id]

    def _first(self, pattern: str) -> str | None:
        found = re.search(pattern, self.source)
        return found[0] if found else None

    def _constant(self, node: ast.Constant, parent: ast.AST | None) -> Iterator[Edit]:
        value, start, end = node.value, *self.span(node)
        if isinstance(value, str) and re.fullmatch(r"((v|log_prob):)?(old|ref)", value):
            other = {"old": "ref", "ref": "old"}[value[-3:]]
            yield ROLE, start, end, f'"{value[:-3]}{other}"'
        if (
            type(value) not in (int, float)
            or _is_axis(node, parent)
            or isinstance(parent, ast.Subscript | ast.Slice)
        ):
            return
        divisor = isinstance(parent, ast.keyword) and parent.arg == "correction"
        yield NORM if divisor else CONSTANT, start, end, repr(2 * value if value else 1)


def _is_type(node: ast.AST) -> bool:
    """Whether ``int | float`` is a union of types, and not of what is computed."""
    return any(isinstance(n, ast.Name) and n.id in ("int", "float", "str", "None") for n in ast.walk(node))


def _is_axis(node: ast.AST, parent: ast.AST | None) -> bool:
    """Whether a number counts axes, and not what is computed."""
    if not (isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute)):
        return isinstance(parent, ast.UnaryOp) and isinstance(node, ast.Constant) and node.value == 1
    return node in parent.args and parent.func.attr in _REDUCED | _RESHAPED
