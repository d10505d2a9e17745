"""The walls of docs/architecture.md: who may import whom. Each test fails when one is crossed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("training", "export", "serving")

# What a package's files may import besides the standard library and what their own package holds.
ALLOWED = {
    "export": {
        "training",
        "serving.bundle",
        "serving.manifest",
        "serving.images",
        "serving.predictor",
        "serving.escalation",
    },
    "training": {"serving.images", "serving.limits"},
    "serving": set(),
}
FORBIDDEN = {
    "serving": {
        "torch",
        "torchvision",
        "timm",
        "lightning",
        "onnx",
        "onnxscript",
        "safetensors",
        "sklearn",
        "matplotlib",
    },
    "training": {"onnx", "onnxscript", "onnxruntime", "bentoml"},
    "export": {"bentoml", "matplotlib"},
}
ONLY = {  # of serving: what else these may import
    "images.py": {"PIL", "numpy"},
    "limits.py": {"serving"},
    "escalation.py": {"numpy", "serving"},
    "manifest.py": set(),
    "bundle.py": {"serving"},
}


def imported(source: str) -> set[str]:
    """Every module that a file imports, anywhere in it, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            module = node.module or ""
            whole = (
                module in PACKAGES
            )  # `from serving import images` names a module, not a thing in it
            found |= {f"{module}.{alias.name}" for alias in node.names} if whole else {module}
    return found


def crossings(package: str, source: str) -> set[str]:
    """The imports of a file of that package that cross a wall."""
    others = set(PACKAGES) - {package} | {"viewfold", "tests", "benchmarks"}
    named = {name: name.split(".")[0] for name in imported(source)}
    forbidden = {name for name, top in named.items() if top in FORBIDDEN[package]}
    unarranged = {
        name for name, top in named.items() if top in others and not ALLOWED[package] & {top, name}
    }
    return forbidden | unarranged


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_crosses_a_wall(package: str):
    assert files(package)
    found = {path.name: crossings(package, path.read_text()) for path in files(package)}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("serving", "import torch"),
        ("serving", "from training.joint import aggregate"),
        ("serving", "def f():\n    from export import bundle"),
        ("training", "from serving.predictor import Predictor"),
        ("training", "from serving import bundle"),
        ("training", "from serving.settings import read"),
        ("training", "import onnxruntime as ort"),
        ("training", "from export.graphs import signature"),
        ("export", "from serving.service import Service"),
        ("export", "import bentoml"),
    ],
)
def test_a_crossing_is_seen(package: str, line: str):
    assert crossings(package, line)


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("training", "from serving import images"),
        ("training", "from serving.images import decode"),
        ("export", "from training.network import Network"),
        ("export", "from serving import bundle as contract"),
        ("serving", "from serving.bundle import read"),
    ],
)
def test_an_allowed_arrow_is_no_crossing(package: str, line: str):
    assert crossings(package, line) == set()


@pytest.mark.parametrize("name", sorted(ONLY))
def test_what_others_rely_on_stays_light(name: str):
    tops = {module.split(".")[0] for module in imported((ROOT / "serving" / name).read_text())}
    assert tops - set(sys.stdlib_module_names) - ONLY[name] == set()


def test_the_serving_package_itself_is_empty():
    assert (ROOT / "serving" / "__init__.py").read_text() == ""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def blocking(names: set[str]) -> str:
    """Code after which importing any of the names fails, as where they are not installed."""
    return f"import sys; sys.modules.update(dict.fromkeys({sorted(names)!r}))\n"


def test_the_service_is_imported_without_torch_and_without_a_bundle(tmp_path: Path):
    blocked = blocking(FORBIDDEN["serving"] | {"training", "export"})
    missing = f"import os; os.environ['VIEWFOLD_BUNDLE'] = {str(tmp_path / 'none')!r}\n"
    done = run_python(blocked + missing + "import serving.service, serving.start")
    assert done.returncode == 0, done.stderr


def test_folders_are_answered_without_torch_and_without_what_serves():
    blocked = blocking(FORBIDDEN["serving"] | {"training", "export", "bentoml", "starlette"})
    done = run_python(blocked + "import serving.embed_files, serving.predict_files")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_only_the_charts_of_a_report_draw():
    drawing = {
        path.name
        for path in files("training")
        if any(name.split(".")[0] == "matplotlib" for name in imported(path.read_text()))
    }
    assert drawing == {"charts.py"}
    done = run_python("import sys, training.classify; assert 'training.charts' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_training_is_imported_without_onnx_and_bentoml():
    done = run_python(blocking(FORBIDDEN["training"] | {"export"}) + "import training.classify")
    assert done.returncode == 0, done.stderr


def test_the_wall_of_these_tests_holds():
    done = run_python(blocking({"torch"}) + "import training.classify")
    assert done.returncode != 0
    assert "ModuleNotFoundError: import of torch halted" in done.stderr
