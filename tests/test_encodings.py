"""Texts are read and written as UTF-8, whatever the locale of the machine."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("taming_jax", "configs", "tests", "benchmarks", "scripts", "notebooks")
TEXTS = {"read_text": 0, "write_text": 1, "TextIOWrapper": 1}  # each with the place of its encoding
OPENING = {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"}
RUNNING = {"run", "Popen", "check_output", "check_call", "call"}
# What else is called `open`: pictures, archives and ways to open what is no text.
OTHERS = {"Image", "zipfile", "tarfile", "archive", "webbrowser", "os", "gzip", "Store", "Model", "urllib", "opener"}


def bare(source: str) -> list[int]:
    """The lines of a program that read or write text by the encoding of the locale."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _is_bare(node)]


def _is_bare(call: ast.Call) -> bool:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if method else getattr(call.func, "id", "")
    owner = getattr(call.func.value, "attr", getattr(call.func.value, "id", "")) if method else ""
    if "encoding" in named or None in named or any(isinstance(argument, ast.Starred) for argument in call.args):
        return False
    if name in TEXTS:
        return len(call.args) <= TEXTS[name] and owner != "text"  # data.text.read_text knows encodings itself
    if name in RUNNING:
        return any(_is_true(named.get(key)) for key in ("text", "universal_newlines"))
    if name not in OPENING or (name == "open" and owner in OTHERS):
        return False
    place = 0 if (method and name == "open" and owner not in ("io", "builtins")) or "Temporary" in name else 1
    default = ast.Constant("w+b" if "Temporary" in name else "r")
    mode = named.get("mode", call.args[place] if len(call.args) > place else default)
    return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))


def _is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def programs() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted([*ROOT.glob("*.py"), *found])


def test_every_text_names_its_encoding():
    wrong = [f"{path.relative_to(ROOT)}:{line}" for path in programs() for line in bare(path.read_text("utf-8"))]
    assert not wrong, "these depend on the locale; name encoding='utf-8': " + ", ".join(wrong)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("open('a')", True),
        ("open('a', 'w')", True),
        ("open('a', mode='a+')", True),
        ("open('a', 'rb')", False),
        ("open('a', 'w', encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('wb')", False),
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(x)", True),
        ("Path(x).write_text(x, encoding='utf-8')", False),
        ("os.fdopen(f, 'w')", True),
        ("tempfile.NamedTemporaryFile()", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c, text=True, encoding='utf-8')", False),
        ("subprocess.run(c)", False),
        ("Image.open(path)", False),
        ("samples.Model.open(path)", False),
    ],
)
def test_what_depends_on_the_locale_is_found(line, wrong):
    assert bool(bare(line)) == wrong
