"""The notebooks' form, and what running one headless promises."""

import ast
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from helpers import paths
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.run import notebook_outputs

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIPELINE = [n for n in NOTEBOOKS if n.stem[0].isdigit()]


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_they_are_all_there():
    assert [n.stem for n in NOTEBOOKS] == [
        "01_generate",
        "02_finetune",
        "03_grade",
        "04_plot",
        "explore",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_thin_and_readable(path):
    notebook = read(path)
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# .*\?", first.source), "opens with the question that it answers"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "skill-composition"
    for cell in code(notebook):
        assert not re.search(
            r"^\s*(def|class|if|try|while|import sys)\b|^[!%]|sys\.path|except", cell.source, re.M
        ), cell.source
        if "parameters" not in cell.metadata.get("tags", []):
            lines = [line for line in cell.source.splitlines() if "import " not in line]
            assert len(lines) <= 12, cell.source
        assert not [
            o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"
        ]
    assert "/" + "root/" not in path.read_text()
    assert str(ROOT) not in path.read_text()
    assert not re.search(r"(sk|hf)[-_][A-Za-z0-9]{16,}", path.read_text())


@pytest.mark.parametrize("path", PIPELINE, ids=lambda p: p.stem)
def test_pipeline_notebooks_close_with_result_and_check(path):
    notebook = read(path)
    headings = [c.source.splitlines()[0] for c in notebook.cells if c.cell_type == "markdown"]
    assert "## Result" in headings
    assert headings[-1] == "## Check"
    assert 8 <= len(code(notebook)) <= 18
    assert "assert " in code(notebook)[-1].source
    tagged = [c for c in code(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert all(c.execution_count for c in code(notebook)), (
        "committed with the outputs of a whole run: make notebooks"
    )
    counts = [c.execution_count for c in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    for statement in ast.parse(tagged[0].source).body:
        line = ast.unparse(statement)
        assert re.fullmatch(r"\w+: (int|float|str|bool|list|dict) = [^=|]+", line), line
        ast.literal_eval(statement.value)
    assert not re.search(r"#.*[=|]", tagged[0].source), "papermill does not see such a line"


@pytest.fixture
def run_stage(tmp_path):
    """Runs a notebook of these cells as the stage `done` of a profile that is gone afterwards."""
    profile = "notebooks-for-test"

    def run(source, values=""):
        words = command(tmp_path, source, f"profile: {profile}\n{values}")
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)

    yield run
    shutil.rmtree(paths.run(profile))


def command(tmp_path, source, values):
    """What runs a notebook of these cells."""
    notebook = nbformat.v4.new_notebook()
    cells = [nbformat.v4.new_code_cell(s) for s in source]
    cells[0].metadata["tags"] = ["parameters"]
    notebook.cells, notebook.metadata["kernelspec"] = (
        cells,
        {"name": "python3", "display_name": "x", "language": "python"},
    )
    nbformat.write(notebook, tmp_path / "done.ipynb")
    (tmp_path / "p.yaml").write_text(values)
    files = [tmp_path / name for name in ("done.ipynb", "p.yaml", "out/done.ipynb")]
    return [sys.executable, "-m", "helpers.run.stage", *files]


def test_a_stage_that_fails_is_not_done(tmp_path, run_stage):
    failed = run_stage(["x: int = 1", "print('so far')", "1 / 0"])
    assert failed.returncode == 1
    assert "ZeroDivisionError" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "out/done.ipynb").exists()
    assert "so far" in (tmp_path / "out/done.partial.ipynb").read_text()
    told = run_stage(
        [
            "x: int = 1",
            "from helpers.errors import UserError",
            "raise UserError('params/x.yaml: no such file')",
        ],
    )
    assert told.returncode == 1
    assert told.stderr.strip() == "done: params/x.yaml: no such file"


def test_a_stage_that_succeeds_holds_results_only(tmp_path, run_stage):
    source = [
        "x: int = 1",
        "import sys, os\nprint('how far', file=sys.stderr)\nprint(x, os.environ['STAGE_LABEL'])",
    ]
    done = run_stage(source, "x: 7")
    assert done.returncode == 0, done.stderr
    assert "how far" in done.stderr
    text = (tmp_path / "out/done.ipynb").read_text()
    assert "7 done" in text
    assert "how far\\n" not in text
    assert "papermill" not in text.replace('"injected-parameters"', "")
    assert not (tmp_path / "out/done.partial.ipynb").exists()


def test_an_interrupted_stage_stores_what_it_has_and_ends_what_it_started(tmp_path):
    """Its kernel is asked to end; one whose cells are done is killed, which takes no time."""
    working, stored = tmp_path / "working", tmp_path / "stored"
    source = f"""
import atexit, time
from pathlib import Path
atexit.register(Path("{tmp_path / "exit"}").touch)
Path("{working}").touch()
try:
    time.sleep(SECONDS)
finally:
    time.sleep(1)
    Path("{stored}").touch()
"""
    profile = "interrupt-for-test"
    for seconds in (0, 60):
        cells = ["x: int = 1", source.replace("SECONDS", str(seconds))]
        for file in (working, stored):
            file.unlink(missing_ok=True)
        words = command(tmp_path, cells, f"profile: {profile}")
        with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as stage:
            if seconds:
                while stage.poll() is None and not working.exists():
                    time.sleep(0.05)
                stage.send_signal(signal.SIGINT)
            said = stage.communicate(timeout=60)[1]
        assert stored.exists()
        assert ("interrupted; run again to go on" in said) == bool(seconds), said
        assert (tmp_path / "exit").exists() == bool(seconds)
    shutil.rmtree(paths.run(profile))


def test_outputs_come_from_the_executed_copy_without_its_cell_of_parameters(tmp_path):
    source = [nbformat.v4.new_code_cell(text) for text in ("x: int = 1", "x")]
    notebook = nbformat.v4.new_notebook(cells=source)
    nbformat.write(notebook, tmp_path / "n.ipynb")
    injected = nbformat.v4.new_code_cell("x = 7", id="injected-parameters", execution_count=2)
    executed = nbformat.from_dict(notebook)
    executed.cells = [source[0], injected, source[1]]
    result = nbformat.v4.new_output("execute_result", {"text/plain": "7"}, execution_count=3)
    source[1].outputs = [result]
    nbformat.write(executed, tmp_path / "out.ipynb")
    first, second = notebook_outputs.with_outputs(
        tmp_path / "n.ipynb", tmp_path / "out.ipynb"
    ).cells
    assert (first.execution_count, second.execution_count) == (1, 2)
    assert second.outputs[0].data["text/plain"] == "7"
    assert second.outputs[0].execution_count == 2
    source[1].source = "x + 1"
    nbformat.write(notebook, tmp_path / "n.ipynb")
    with pytest.raises(UserError, match=r"out\.ipynb is not of .*n\.ipynb as it is now"):
        notebook_outputs.with_outputs(tmp_path / "n.ipynb", tmp_path / "out.ipynb")
