"""What a stage executes, as a hash: its script and the modules it uses, comments left out."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

# Modules that move bytes and read configuration but shape no number. What they hand to a stage is
# in that stage's stamp already, and a new config key must not buy a new training.
NEUTRAL_MODULES = frozenset(
    f"ablation{name}"
    for name in " .atomic .bridge.schema .config .hub .layers .machine .progress .provenance "
    ".schema".split(" ")
)


@cache  # a module is used by several stages
def code_tokens(source: str) -> str:
    """The tokens of a Python file without comments, blank lines and docstrings.

    `ast.dump` would do, but differs between Python 3.11, 3.12 and 3.13; so does the tokenizer's
    view of f-strings, which are therefore taken as the text that they span.
    """
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            if is_text and isinstance(first.value.value, str):
                docstrings.add((first.lineno, first.col_offset))
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}
    kept, fstring_starts, lines = [], [], source.splitlines(keepends=True)
    after_docstring = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if token.start in docstrings:
            after_docstring = True
        elif name == "FSTRING_START":
            fstring_starts.append(token.start)  # they nest
        elif name == "FSTRING_END":
            start = fstring_starts.pop()
            kept += [] if fstring_starts else [_span(lines, start, token.end)]
        elif fstring_starts or token.type in skip:
            continue
        elif token.type == tokenize.NEWLINE:
            kept += [] if after_docstring else ["<newline>"]
            after_docstring = False
        elif token.type == tokenize.INDENT:
            kept.append("<indent>")  # how wide a block is indented says nothing
        elif token.type == tokenize.DEDENT:
            kept.append("<dedent>")
        else:
            kept.append(token.string)
    return "\n".join(kept)


def _span(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text from `start` to `end`, both (line from 1, column from 0) in characters."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    middle = lines[start[0] : end[0] - 1]
    return "".join([lines[start[0] - 1][start[1] :], *middle, lines[end[0] - 1][: end[1]]])


def module_file(module: str, package: Path = PACKAGE) -> Path | None:
    base = package.joinpath(*module.split(".")[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _imported_modules(source: str, parent: str, package: Path) -> frozenset[str]:
    """The `ablation` modules that a source in `parent` names in its imports, lazy ones included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parent.split(".")[: len(parent.split(".")) - node.level + 1])
            stem = f"{base}.{node.module or ''}".strip(".") if node.level else node.module
            found |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
    ours = {m for m in found if m.split(".")[0] == "ablation"}
    return frozenset(m for m in ours if module_file(m, package))


def code_closure(script: str | Path, package: Path = PACKAGE) -> list[str]:
    """The `ablation` modules that a script uses, directly or through others, sorted."""
    seen: set[str] = set()
    pending = set(_imported_modules(Path(script).read_text(), "", package))
    while pending:
        module = pending.pop()
        if module in seen or module in NEUTRAL_MODULES:
            continue
        seen.add(module)
        file = module_file(module, package)
        parent = module if file.name == "__init__.py" else module.rpartition(".")[0]
        pending |= _imported_modules(file.read_text(), parent, package)
    return sorted(seen)


@cache
def code_hash(script: str | Path, package: Path = PACKAGE) -> str:
    """A hash of what a stage executes: its script and the modules it uses, comments left out.

    `package` is the folder of `ablation` that the script would import, where not this one.
    """
    parts = [code_tokens(Path(script).read_text())]
    for module in code_closure(script, package):
        parts.append(f"{module}\n{code_tokens(module_file(module, package).read_text())}")
    return hashlib.sha256("\n\0".join(parts).encode()).hexdigest()
