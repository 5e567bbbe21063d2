"""Hashes the code that a stage executes: its script and the modules that it imports.

Comments, docstrings and the texts of raised errors do not count, because they change no result.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# The folder of the workflow: Snakefile, rules, workflow, config, profiles and resources. A wheel
# has it in the package (tools/wheel.py), and otherwise it is the root of the repository.
PACKED = PACKAGE / "pipeline"
ROOT = PACKED if PACKED.is_dir() else PACKAGE.parents[1]

# Modules and packages that copy bytes, read the configuration, refuse models, start processes,
# write records or print messages, but change no number. They are not hashed, so that a change in
# them makes no result stale. The values that a stage gets from the configuration are in its
# fingerprint already.
NOT_HASHED = (
    *("config", "console", "provenance", "data.hub"),
    *("model.checks", "training.tracking"),
    *(f"parallel.{module}" for module in ("launch", "rank", "join", "watch")),
)

# Modules that scripts import, but execute only with a module that the configuration names.
ONLY_BY_NAME = frozenset(["ablation.interventions.anatomy", "ablation.interventions.protocol"])

Position = tuple[int, int]  # line from 1, column from 0


def is_hashed(module: str) -> bool:
    """Whether neither a module nor a package that contains it is one of `NOT_HASHED`."""
    return not any(f"{module}.".startswith(f"ablation.{name}.") for name in NOT_HASHED)


@cache  # because several stages use the same module
def code_tokens(source: str) -> str:
    """The tokens of a Python file without comments, blank lines, docstrings and texts of errors.

    The output of `ast.dump` would differ between Python 3.11, 3.12 and 3.13. So would the tokens
    of an f-string; therefore the whole source text of an f-string counts as one token.
    """
    docstrings: set[Position] = set()
    errors: list[tuple[Position, Position]] = []
    for node in _statements(source):
        if isinstance(node, ast.Raise):
            errors += _text_spans(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())) as docstring, *_]:
                    docstrings.add((docstring.lineno, docstring.col_offset))
    texts, lines = _Spans(errors), source.splitlines(keepends=True)
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}
    kept: list[str] = []
    fstring_starts: list[Position] = []  # of f-strings within each other, the outermost first
    after_docstring = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if token.start in docstrings:
            after_docstring = True
        elif name == "FSTRING_START":
            fstring_starts.append(token.start)
        elif name == "FSTRING_END":
            start = fstring_starts.pop()
            inside = fstring_starts or texts.contain(lines, token)
            kept += [] if inside else [_span(lines, start, token.end)]
        elif fstring_starts or token.type in skip or texts.contain(lines, token):
            continue
        elif token.type == tokenize.NEWLINE:
            kept += [] if after_docstring else ["<newline>"]
            after_docstring = False
        elif token.type == tokenize.INDENT:
            kept.append("<indent>")  # the width of an indentation does not matter
        elif token.type == tokenize.DEDENT:
            kept.append("<dedent>")
        else:
            kept.append(token.string)
    return "\n".join(kept)


@cache
def _statements(source: str) -> list[ast.AST]:
    """The module of a source text and its statements, also those within others.

    Expressions, which are most of a tree, contain no statement and are not walked through.
    """
    found: list[ast.AST] = [ast.parse(source)]
    for node in found:  # grows while it is read
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            found += getattr(node, name, [])
    return found


def _text_spans(node: ast.Raise) -> list[tuple[Position, Position]]:
    """(start, end) of each string in a raise statement, with columns in bytes."""
    return [
        ((part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0))
        for part in ast.walk(node)
        if isinstance(part, ast.JoinedStr)
        or (isinstance(part, ast.Constant) and isinstance(part.value, str))
    ]


class _Spans:
    """Spans of a source text, each (start, end) with columns in bytes."""

    def __init__(self, spans: list[tuple[Position, Position]]) -> None:
        self.spans = spans
        self.rows = {row for (first, _), (last, _) in spans for row in range(first, last + 1)}

    def contain(self, lines: list[str], token: tokenize.TokenInfo) -> bool:
        """Whether a token, whose columns count characters, ends within one of the spans."""
        row, column = token.end
        if row not in self.rows:
            return False
        line = lines[row - 1] if row <= len(lines) else ""
        end = (row, len(line[:column].encode()))
        return any(first < end <= last for first, last in self.spans)


def _span(lines: list[str], start: Position, end: Position) -> str:
    """The text from `start` to `end`, both with columns in characters."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    middle = lines[start[0] : end[0] - 1]
    return "".join([lines[start[0] - 1][start[1] :], *middle, lines[end[0] - 1][: end[1]]])


def module_file(module: str, package: Path = PACKAGE) -> Path:
    """The file of an `ablation` module. Raises ModuleNotFoundError if there is none."""
    file = _find_file(module, package)
    if file is None:
        raise ModuleNotFoundError(f"{package} has no module {module}")
    return file


def has_module(module: str, package: Path = PACKAGE) -> bool:
    """Whether there is a file of an `ablation` module."""
    return _find_file(module, package) is not None


def _find_file(module: str, package: Path) -> Path | None:
    base = package.joinpath(*module.split(".")[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _imported_modules(source: str, parent: str, package: Path) -> frozenset[str]:
    """The `ablation` modules that a source in the package `parent` imports, also in functions."""
    found: set[str] = set()
    for node in _statements(source):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parent.split(".")[: len(parent.split(".")) - node.level + 1])
            stem = f"{base}.{node.module or ''}".strip(".") if node.level else node.module or ""
            found |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
    ours = {m for m in found if m.split(".")[0] == "ablation"}
    return frozenset(m for m in ours if _find_file(m, package))


def code_closure(
    script: str | Path,
    package: Path = PACKAGE,
    leave_out: frozenset[str] = frozenset(),
    by_name: frozenset[str] = frozenset(),
) -> list[str]:
    """The hashed `ablation` modules that a script imports, directly or through others, sorted.

    The modules in `leave_out` do not count, and neither do modules that only they import. Those in
    `by_name`, which the script imports by a name in its configuration, count too. Without any of
    them, those in `ONLY_BY_NAME` do not count.
    """
    leave_out = leave_out if by_name else leave_out | ONLY_BY_NAME
    seen: set[str] = set()
    pending = set(_imported_modules(Path(script).read_text("utf-8"), "", package) | by_name)
    while pending:
        module = pending.pop()
        if module in seen | leave_out or module == "ablation" or not is_hashed(module):
            continue
        seen.add(module)
        file = module_file(module, package)
        parent = module if file.name == "__init__.py" else module.rpartition(".")[0]
        pending |= _imported_modules(file.read_text("utf-8"), parent, package)
    return sorted(seen)


@cache
def code_hash(
    script: str | Path,
    package: Path = PACKAGE,
    leave_out: frozenset[str] = frozenset(),
    by_name: frozenset[str] = frozenset(),
) -> str:
    """A hash of the code that a stage executes: its script and the modules that it imports.

    package: the folder of the `ablation` package that the script imports (default: this one).
    leave_out: modules that the configuration of the stage does not use.
    by_name: modules that the configuration names, and that no module imports.
    """
    parts = [code_tokens(Path(script).read_text("utf-8"))]
    for module in code_closure(script, package, leave_out, by_name):
        text = module_file(module, package).read_text("utf-8")
        parts.append(f"{module}\n{code_tokens(text)}")
    return hashlib.sha256("\n\0".join(parts).encode()).hexdigest()
