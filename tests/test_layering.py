"""The levels of the design, read from the import statements: a file imports its own folder and lower levels only."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ("train_vqgan.py", "train_transformer.py", "sample.py")

# The one table of levels, lowest first; docs/layout.md shows the same, with the job of each. Looked up by the exact
# file first, then by its folder.
TABLE: tuple[tuple[int, tuple[str, ...]], ...] = (
    (
        0,
        (
            "taming_jax/settings.py",
            "taming_jax/sharding.py",
            "taming_jax/lettering.py",
            "taming_jax/pictures.py",
            "taming_jax/nn",
        ),
    ),
    (
        0,
        (
            "taming_jax/files.py",
            "taming_jax/file_kinds.py",
            "taming_jax/differences.py",
            "taming_jax/limits.py",
            "taming_jax/cores.py",
            "taming_jax/memory.py",
            "taming_jax/data/demo",
        ),
    ),
    (0, ("taming_jax/names.py", "taming_jax/outputs.py")),
    (0, ("taming_jax/stopping.py", "taming_jax/program.py", "taming_jax/lease.py", "taming_jax/joining.py")),
    (1, ("taming_jax/models", "taming_jax/metrics", "taming_jax/data", "taming_jax/checkpoint")),
    (2, ("taming_jax/priors", "taming_jax/conditioning", "taming_jax/cli.py", "taming_jax/data/sources")),
    (3, ("taming_jax/data/pipeline.py",)),
    (3, ("taming_jax/two_stage.py", "taming_jax/convert")),
    (4, ("taming_jax/data/inspection.py",)),
    (4, ("taming_jax/training", "taming_jax/convert/original")),
    (5, ("taming_jax/experiment.py", "taming_jax/convert/formats")),
    (6, ("taming_jax/trained",)),
    (7, ("taming_jax/drawing", "taming_jax/compiling")),
    (8, ("taming_jax/quality",)),
    (8, ("taming_jax/encode_dataset.py", "taming_jax/codes_used.py")),
    (8, ("taming_jax/inspect_data.py", "taming_jax/compile_for.py", "taming_jax/html_report.py")),
    (8, ("taming_jax/convert/__main__.py", "taming_jax/page")),
    (8, ("taming_jax/__init__.py",)),  # lazily: importing the package must cost nothing
    (9, ("taming_jax/evaluate.py",)),
    (9, (*SCRIPTS, "configs")),
)
LEVELS = {place: number for number, places in TABLE for place in places}

# Third-party modules that only some places may import: module -> folders or files.
OWNERS = {
    "tensorflow": ("taming_jax/data",),
    "tensorflow_datasets": ("taming_jax/data",),
    "clu.metric_writers": ("taming_jax/training/report.py",),
    "clu.periodic_actions": ("taming_jax/training/report.py",),
    "torch": ("taming_jax/data/prepare.py",),
    "libtpu": ("taming_jax/compiling",),
    "orbax": ("taming_jax/checkpoint",),
    "ml_collections": ("taming_jax/cli.py", "configs", *SCRIPTS),
    "absl.flags": ("taming_jax/cli.py",),
    "matplotlib": ("taming_jax/quality/sweep.py",),
}


def level(path: str) -> int:
    if path in LEVELS:
        return LEVELS[path]
    folder = path.rsplit("/", 1)[0]
    if folder not in LEVELS:
        raise KeyError(f"{path} has no level: add it, or its folder, to TABLE here and to docs/layout.md")
    return LEVELS[folder]


def imports(source: str, path: str) -> set[tuple[str, bool]]:
    """(dotted name, whether it runs when the file is imported) of everything that the source of `path` imports."""
    package = path.split("/")[:-1]
    found: set[tuple[str, bool]] = set()

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.update((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.update((f"{module}.{alias.name}", at_import) for alias in node.names)
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        never = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            visit(child, at_import and not later and not never)

    visit(ast.parse(source), True)
    return found


def own_file(name: str, files: set[str]) -> str | None:
    """The project's file behind the dotted name of a module or of something inside one; None if it is foreign."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        stem = "/".join(parts[:n])
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if path in files:
                return path
    return None


def violations(sources: dict[str, str]) -> list[str]:
    """Every import among the files {path: source} that the levels or the owners forbid."""
    found = []
    files = set(sources)
    for path, source in sources.items():
        for name, at_import in imports(source, path):
            target = own_file(name, files)
            if target is None:
                for module, owners in OWNERS.items():
                    owned = any(path == owner or path.startswith(f"{owner}/") for owner in owners)
                    if f"{name}.".startswith(f"{module}.") and not owned:
                        found.append(f"{path} imports {name}, which belongs to {', '.join(owners)}")
            elif path == "taming_jax/__init__.py":
                if at_import and target != path:
                    found.append(f"{path} imports {target} at once, not lazily")
            else:
                same_folder = target.rsplit("/", 1)[0] == path.rsplit("/", 1)[0]
                if level(target) > level(path) or (level(target) == level(path) and not same_folder):
                    found.append(f"{path} (level {level(path)}) imports {target} (level {level(target)})")
    return sorted(found)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    folders = [path for folder in ("taming_jax", "configs") for path in (ROOT / folder).rglob("*.py")]
    paths = [*folders, *(ROOT / script for script in SCRIPTS)]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_a_file_imports_its_own_folder_and_lower_levels_only(sources):
    assert violations(sources) == []


def test_no_import_cycles(sources):
    graph = {}
    for path, source in sources.items():
        targets = {own_file(name, set(sources)) for name, at_import in imports(source, path) if at_import}
        graph[path] = targets - {None, path}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_every_file_has_a_level(sources):
    assert {level(path) for path in sources} == set(range(10))


def layout(page: str) -> list[tuple[int, str]]:
    """(level, file or folder) of every row of docs/layout.md, from the top."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \| .+ \|$", page, re.MULTILINE)
    return [(int(number), name.rstrip("/")) for number, names in rows for name in re.findall(r"`(.+?)`", names)]


def test_the_documentation_shows_the_table():
    shown = layout((ROOT / "docs" / "layout.md").read_text(encoding="utf-8"))
    missing = sorted(set((number, place) for place, number in LEVELS.items()) - set(shown))
    surplus = sorted(set(shown) - {(number, place) for place, number in LEVELS.items()})
    assert not missing, f"docs/layout.md: add rows | level | `file` | its one job | for {missing}"
    assert not surplus, f"docs/layout.md: {surplus} is not in TABLE here, or on another level"
    assert [number for number, _ in shown] == sorted(number for number, _ in shown), "docs/layout.md: sort it by level"
    assert len(shown) == len(LEVELS), "docs/layout.md: an entry is shown twice"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("taming_jax/nn/conv.py", "from taming_jax.models import vqgan"),
        ("taming_jax/nn/conv.py", "from ..models.vqgan import VQGAN"),
        ("taming_jax/nn/conv.py", "def f():\n    import taming_jax.models.vqgan"),
        ("taming_jax/models/vqgan.py", "import taming_jax"),
        ("taming_jax/training/loop.py", "from taming_jax.trained import generator"),
        ("taming_jax/priors/filters.py", "from taming_jax.training.loop import run"),
        ("taming_jax/__init__.py", "from taming_jax.models.vqgan import VQGAN"),
        ("taming_jax/trained/generator.py", "import tensorflow as tf"),
        ("taming_jax/training/loop.py", "from clu import metric_writers"),
        ("taming_jax/models/vqgan.py", "def f():\n    import torch.nn"),
        ("taming_jax/training/loop.py", "import orbax.checkpoint as ocp"),
        ("taming_jax/training/loop.py", "from absl import flags"),
        ("taming_jax/trained/generator.py", "import ml_collections"),
    ],
)
def test_planted_violations_are_found(path, source):
    names = ("__init__", "nn/conv", "models/__init__", "models/vqgan", "training/loop", "trained/generator")
    files = {f"taming_jax/{name}.py": "" for name in (*names, "priors/__init__", "priors/filters")}
    assert len(violations({**files, path: source})) == 1


def test_allowed_imports_pass():
    files = {
        "taming_jax/__init__.py": "def load(p):\n    from taming_jax.trained import load\n    return load(p)\n"
        "if TYPE_CHECKING:\n    from taming_jax.trained.generator import load\n",
        "taming_jax/trained/generator.py": "from taming_jax.priors import filters",
        "taming_jax/evaluate.py": "from taming_jax.trained.generator import load",
        "taming_jax/priors/__init__.py": "",
        "taming_jax/priors/filters.py": "import jax",
        "taming_jax/priors/decode.py": "from taming_jax.priors.filters import draw\nfrom clu import metrics",
        "taming_jax/data/sources/tfds.py": "def f():\n    import tensorflow",
        "train_vqgan.py": "import ml_collections\nimport taming_jax",
    }
    assert violations(files) == []


def test_sampling_and_notebooks_need_neither_tensorflow_nor_torch():
    program = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "tensorboard", "torch"):
    sys.modules[name] = None  # from here on importing it raises ImportError
import taming_jax, taming_jax.trained.generator, taming_jax.evaluate, taming_jax.data.demo
import pkgutil, importlib, taming_jax.priors
for module in pkgutil.iter_modules(taming_jax.priors.__path__):
    importlib.import_module(f"taming_jax.priors.{module.name}")
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr


def test_public_names_are_there(sources):
    """What a package lists as its own, `import *` and lazy imports included."""
    for path in (path for path in sources if "__all__" in sources[path]):
        name = path.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        module = importlib.import_module(name)
        assert [public for public in module.__all__ if not hasattr(module, public)] == [], path


FILE = re.compile(r"(?<![\w/.-])(?:taming_jax|tests|benchmarks|configs|scripts|docs)/[\w/.-]+\.\w+\b")


def test_files_that_the_documentation_names_are_there():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        named = FILE.findall(page.read_text(encoding="utf-8"))
        assert [name for name in named if not (ROOT / name).exists()] == [], page
