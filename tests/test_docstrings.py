"""Every public name of the backend says what it does; shapes of arrays and errors raised are in its docstring."""

import ast
from pathlib import Path

import pytest

BACKEND = Path(__file__).parent.parent / "backend"
MODULES = {str(path.relative_to(BACKEND)): ast.parse(path.read_text(encoding="utf-8")) for path in BACKEND.rglob("*.py")}
ARRAYS = ("Tensor", "NDArray")


def public(node, prefix=""):
    """Yield public classes, functions and methods; what is defined within a function is not public."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{child.name}.")


NAMES = [pytest.param(node, id=f"{file}:{name}") for file, tree in MODULES.items() for name, node in public(tree)]


def missing(node):
    """Return what the docstring of a public name lacks."""
    text = ast.get_docstring(node) or ""
    if not text:
        return "a docstring"
    if isinstance(node, ast.ClassDef):
        return ""
    own = [inner for inner in ast.walk(node) if isinstance(inner, ast.Raise) and inner.exc is not None]
    if own and "aise" not in text:
        return "the errors raised"
    kinds = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]
    spelled = " ".join(ast.unparse(kind) for kind in kinds if kind is not None)
    return "shapes" if any(kind in spelled for kind in ARRAYS) and "[" not in text else ""


def test_there_is_much_to_look_at():
    assert len(MODULES) > 60 and len(NAMES) > 400


def test_modules_say_what_they_are_for():
    assert [file for file, tree in MODULES.items() if not ast.get_docstring(tree)] == []


def test_public_names_have_docstrings_with_shapes_and_errors():
    lacking = {param.id: missing(param.values[0]) for param in NAMES}
    assert {name: lack for name, lack in lacking.items() if lack} == {}


@pytest.mark.parametrize(
    "source, lack",
    [
        ("def f(): pass", "a docstring"),
        ("def f():\n 'Do.'\n raise ValueError('x')", "the errors raised"),
        ("def f(x: Tensor):\n 'Do.'", "shapes"),
        ("def f(x: Tensor):\n 'Do ``[n, d]``; raises `ValueError`.'\n raise ValueError('x')", ""),
    ],
)
def test_what_lacks_is_noticed(source, lack):
    assert missing(ast.parse(source).body[0]) == lack
