"""What is installed: every import is declared, and the wheel works without the checkout."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Declared, though nothing here imports them.
NOT_IMPORTED = {
    "importlib-resources": "imported, but not declared, by tensorflow-datasets",
    "tensorboard": "imported, but not declared, by clu",
    "jupyterlab": "runs the notebooks",
    "mkdocs-material": "makes the site",
    "mkdocstrings": "a plugin of mkdocs",
    "pytest-xdist": "a plugin of pytest",
    "playwright": "by pytest.importorskip, where it is there",
    "pillow-heif": "by importlib, when such a file is met",
    "pillow-jxl-plugin": "by importlib, when such a file is met",
    "filelock": "imported by jax, for its cache",
    "setuptools": "builds the wheel",
    "pre-commit": "a program",
    "ruff": "a program",
    "mypy": "a program",
}


# One package by two names: which of them a machine gets depends on its processor.
ALIKE = {"tensorflow", "tensorflow-cpu"}
MACHINES = {
    ("darwin", "Darwin", "arm64"): "tensorflow",
    ("linux", "Linux", "aarch64"): "tensorflow",
    ("linux", "Linux", "x86_64"): "tensorflow-cpu",
    ("win32", "Windows", "AMD64"): "tensorflow-cpu",
}


def distribution(requirement: str) -> str:
    """The normalized name in a requirement such as `etils[epath]>=1.9`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def declared(*extras: str) -> set[str]:
    """The distributions that the package needs, and those of the extras."""
    optional = PROJECT["optional-dependencies"]
    names = [*PROJECT["dependencies"], *(requirement for extra in extras for requirement in optional[extra])]
    return {distribution(name) for name in names} - {"taming-jax"}


def imported(*places: str) -> dict[str, str]:
    """Foreign top-level modules that the files and folders import -> a file that does."""
    found = {}
    for place in places:
        for path in (ROOT / place).rglob("*.py") if (ROOT / place).is_dir() else [ROOT / place]:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                found |= {name.split(".")[0]: str(path.relative_to(ROOT)) for name in names}
    own = {path.stem for folder in ("", "tests", "benchmarks") for path in (ROOT / folder).glob("*.py")}
    own |= {"taming_jax", "configs"}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names and name not in own}


def distributions(module: str) -> set[str]:
    """The distributions that may bring a module; its own name where none is installed."""
    found = importlib.metadata.packages_distributions().get(module, [module])
    names = {distribution(name) for name in found}
    return names | ALIKE if names & ALIKE else names


PACKAGE = ("taming_jax", "configs", "train_vqgan.py", "train_transformer.py", "sample.py")


@pytest.mark.parametrize(
    ("places", "extras"),
    [(PACKAGE, ("data", "prepare", "hub", "pods", "plots")), (("tests",), ("data", "prepare", "dev"))],
)
def test_what_is_imported_is_declared(places, extras):
    names = declared(*extras)
    missing = {name: path for name, path in imported(*places).items() if not distributions(name) & names}
    assert not missing, f"declare in pyproject.toml (and requirements.txt), with the reason: {missing}"


def test_what_is_declared_is_imported_or_has_a_reason():
    modules = imported(*PACKAGE, "tests")
    used = set().union(*map(distributions, modules)) | set(NOT_IMPORTED)
    names = declared(*PROJECT["optional-dependencies"])
    assert names - used == set() and set(NOT_IMPORTED) <= names


def test_requirements_are_those_of_pyproject():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = {text for line in lines if (text := line.split("#")[0].strip())}
    assert listed == {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["data"]}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "_".join(machine[1:]))
def test_each_kind_of_machine_gets_the_tensorflow_that_is_there_for_it(machine):
    where = dict(zip(("sys_platform", "platform_system", "platform_machine"), machine))
    requirements = [Requirement(text) for text in PROJECT["optional-dependencies"]["data"]]
    names = {r.name for r in requirements if r.marker is None or r.marker.evaluate(where)}
    assert names & ALIKE == {MACHINES[machine]}


def test_the_hosted_workflow_and_the_hooks_run_what_make_lint_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["check"]
    commands = [step["run"].split()[:2] for step in workflow["steps"] if "run" in step]
    assert [command for command in commands if command[0] == "make"] == [["make", "lint"], ["make", "test"]]
    assert f">={workflow['strategy']['matrix']['python'][0]}" == PROJECT["requires-python"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert all(repository["repo"] == "local" for repository in hooks)  # nothing to fetch
    made = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(PY)", ".venv/bin/python").replace(" --check", "")
    for hook in hooks[0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].replace(" --force-exclude", "") in made


def test_the_changelog_has_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)[:2] == ["Unreleased", PROJECT["version"]]


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory):
    """The wheel of a copy of the source, unpacked; the checkout itself gets no build/ and lends none to the wheel."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "taming_jax", source / "taming_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, folder / "installed", "zip")
    return folder / "installed"


def run_in(folder: Path, wheel: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Python with the wheel before an editable install of the checkout, and (-P) without the folder it runs in."""
    environment = {**os.environ, "PYTHONPATH": str(wheel), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )


def test_the_wheel_is_what_is_imported(unpacked_wheel, tmp_path):
    result = run_in(tmp_path, unpacked_wheel, "-c", "import taming_jax; print(taming_jax.__file__)")
    assert Path(result.stdout.strip()) == unpacked_wheel / "taming_jax" / "__init__.py", result.stderr


def test_the_wheel_holds_every_file_of_the_package(unpacked_wheel):
    for kind in ("*.py", "*.html", "*.css", "*.js", "*.svg", "*.npz", "*.safetensors", "*.json", "*.md"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "taming_jax").rglob(kind)}
        assert files and {path.relative_to(unpacked_wheel).as_posix() for path in unpacked_wheel.rglob(kind)} == files


@pytest.mark.parametrize(
    ("module", "option"),
    [
        ("encode_dataset", "--crops"),
        ("evaluate", "--workdir"),
        ("compile_for", "--slice"),
        ("codes_used", "--min_count"),
        ("convert", "--export"),
        ("data.prepare", "--images"),
        ("page", "--port"),
    ],
)
def test_commands_work_without_the_checkout(unpacked_wheel, tmp_path, module, option):
    result = run_in(tmp_path, unpacked_wheel, "-m", f"taming_jax.{module}", "--help")
    assert option in result.stdout, result.stderr
    assert result.stderr == "" and result.returncode in (0, 1)  # absl ends its help with 1
