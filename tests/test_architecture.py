"""The rules of the house, read off the imports and calls themselves."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GENERATOR = sorted((ROOT / "generator").rglob("*.py"))
STAGES = {"load", "check", "run", "render", "pages", "claims", "export"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path) if not name.startswith(".")}


def test_records_know_nobody():
    assert not {name for name in imports(ROOT / "generator/schema.py") if name.startswith("generator")}


@pytest.mark.parametrize("name", ["load", "check", "run", "claims"])
def test_stages_do_not_import_each_other(name):
    others = {f"generator.{stage}" for stage in STAGES - {name}}
    assert not imports(ROOT / f"generator/{name}.py") & others


def test_only_the_plugin_knows_mkdocs():
    assert [path.name for path in GENERATOR if "mkdocs" in packages(path)] == ["plugin.py"]


def test_only_the_command_line_prints():
    def prints(path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        return any(
            isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print" for n in ast.walk(tree)
        )

    outside_lab = [path for path in GENERATOR if "lab" not in path.parts]
    elsewhere = [path for path in outside_lab if path.parent.name != "cli"]
    assert not [path.name for path in elsewhere if prints(path)]
    assert not [path.name for path in elsewhere if packages(path) & {"rich", "click"}]


@pytest.mark.parametrize("heavy", ["torch", "triton", "numpy", "matplotlib"])
def test_nothing_outside_the_lab_imports_what_is_heavy(heavy):
    assert not [path.name for path in GENERATOR if "lab" not in path.parts and heavy in packages(path)]


@pytest.mark.parametrize("foreign", ["mkdocs", "pydantic", "click", "rich", "jinja2", "bibtexparser", "math_core"])
def test_the_lab_needs_nothing_a_gpu_machine_lacks(foreign):
    lab = [path for path in GENERATOR if "lab" in path.parts]
    assert lab
    assert not [path.name for path in lab if foreign in packages(path)]


def test_the_lab_imports_nothing_of_ours_but_the_lab():
    for path in (ROOT / "generator/lab").glob("*.py"):
        ours = {name for name in imports(path) if name.startswith("generator")}
        assert not {name for name in ours if not (name + ".").startswith("generator.lab.")}, path.name


SNIPPETS = sorted(path for path in (ROOT / "snippets").glob("*/*.py"))


@pytest.mark.parametrize("path", [p for p in SNIPPETS if p.name == "method.py"], ids=lambda p: p.parent.name)
def test_a_method_needs_torch_alone(path):
    assert not packages(path) - {"torch", "jaxtyping", "__future__", *sys.stdlib_module_names}
    runtime = ast.parse(path.read_text(encoding="utf-8"))
    top = {alias.name for node in runtime.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {node.module for node in runtime.body if isinstance(node, ast.ImportFrom)}
    assert "jaxtyping" not in top  # shapes in signatures cost a reader no package


@pytest.mark.parametrize("path", [p for p in SNIPPETS if p.name == "kernel.py"], ids=lambda p: p.parent.name)
def test_a_kernel_needs_torch_triton_and_its_twin_alone(path):
    assert not packages(path) - {"torch", "triton", "__future__", *sys.stdlib_module_names}
    assert {name for name in imports(path) if name.startswith(".")} <= {".", "..method", ".method"}


@pytest.mark.parametrize("slug", sorted({p.parent.name for p in SNIPPETS if p.name == "kernel.py"}))
def test_a_kernel_has_the_names_and_signatures_of_its_method(slug):
    def signatures(file):
        tree = ast.parse((ROOT / "snippets" / slug / file).read_text(encoding="utf-8"))
        return {
            node.name: (
                [one.arg for one in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]],
                [ast.unparse(one) for one in node.args.defaults],
            )
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        }

    method, kernel = signatures("method.py"), signatures("kernel.py")
    assert kernel, "a kernel has public names"
    for name, signature in kernel.items():
        assert method.get(name) == signature, name


def test_a_build_from_stored_results_starts_without_torch():
    code = "import sys, generator.build, generator.cli, generator.pages, generator.plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_pattern_repeats_a_group_possessively():
    """Python before 3.11.5 matches such a pattern wrongly where the group itself has a choice (gh-106052)."""
    found = [
        (path.name, pattern)
        for path in GENERATOR
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(pattern := node.value, str)
        if re.search(r"\)(?:[*+?]|\{\d*,?\d*\})\+|\(\?>", pattern)
    ]
    assert found == []


def test_files_stay_small_enough_to_read():
    long = {
        path.relative_to(ROOT).as_posix(): n for path in GENERATOR if (n := len(path.read_text().splitlines())) > 330
    }
    assert not long
