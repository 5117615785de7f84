"""--format: every command that draws has it; what the files of a figure hold."""

import importlib
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from rnnlab import cli, evaluate, train
from rnnlab.config.errors import ConfigError
from rnnlab.plots import style
from scripts import compare_gradient_flow
from tests.plots import examples

TOP = Path(__file__).parents[2]
COMMANDS = {
    "rnnlab": ("benchmark.__main__", "diagnose", "evaluate", "find_learning_rate", "report", "sweep", "train"),
    "scripts": (
        *("compare_gradient_flow", "compare_lm1b", "compare_speech", "compare_with_torch_lm", "irnn.__main__"),
        "study.__main__",
    ),
}
"""What draws."""
TORCH = "compare_with_torch_lm"


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What the flag sets is taken back after the test."""
    monkeypatch.setenv("RNNLAB_FORMAT", "")
    return monkeypatch


@pytest.mark.parametrize("name", [f"{room}.{name}" for room, names in COMMANDS.items() for name in names])
def test_every_command_that_draws_has_the_flag_and_refuses_another_format_before_it_works(
    name: str, formats: pytest.MonkeyPatch
) -> None:
    if name.endswith(TORCH):
        pytest.importorskip("torch")
    main = importlib.import_module(name).main
    with pytest.raises(ConfigError, match=r"--format: unknown format of figures 'sgv'; did you mean svg"):
        main(["--format=png,sgv"])
    formats.setenv("RNNLAB_FORMAT", "jpg")
    with pytest.raises(ConfigError, match=r"RNNLAB_FORMAT: unknown format of figures 'jpg'.*known: pdf, png, svg"):
        main([])


def test_no_other_command_draws() -> None:
    drawing = re.compile(r"rnnlab\.plots|import plots|train_and_evaluate|run_sweep\(|write_report")
    files = [*(TOP / "rnnlab").glob("*.py"), *(TOP / "rnnlab").glob("*/__main__.py"), *(TOP / "scripts").rglob("*.py")]
    commands = {path: path.read_text(encoding="utf-8") for path in files}
    commands = {path: text for path, text in commands.items() if "cli.run(main)" in text}
    assert len(commands) > 15
    lacking = {path.name for path, text in commands.items() if drawing.search(text) and "figure_flag" not in text}
    assert lacking <= NOTHING_KEPT


NOTHING_KEPT = {"compare_packing.py", "memory_of_chunks.py", "compare_compilers.py", "orthogonality.py"}
"""They train in folders that they remove."""


def test_a_figure_has_a_file_in_each_format_with_the_same_bytes_each_time(
    tmp_path: Path, formats: pytest.MonkeyPatch
) -> None:
    formats.setenv("RNNLAB_FORMAT", "svg,pdf")
    for folder in ("one", "other"):
        figure, (axis,) = style.make_axes(1)
        axis.plot([1, 2], label="a curve")
        axis.set_xlabel("training step")
        assert style.save(figure, tmp_path / folder / "x.png") == tmp_path / folder / "x.png"
    files = {path.suffix: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files == {path.suffix: path.read_bytes() for path in (tmp_path / "other").iterdir()}
    assert set(files) == {".png", ".pdf", ".svg"}
    assert b"/FontFile2" in files[".pdf"]  # TrueType, embedded.
    assert b"/Type3" not in files[".pdf"]
    assert b"CreationDate" not in files[".pdf"]
    assert re.search(rb"<text [^>]*>training step</text>", files[".svg"])
    assert b"<dc:date>" not in files[".svg"]
    assert plt.imread(tmp_path / "one" / "x.png").shape[1] == round(300 * style.COLUMN)


@pytest.mark.parametrize(
    ("asked", "path", "files"),
    [
        ("", "x.png", ["x.png"]),
        ("png", "x.png", ["x.png"]),
        ("pdf", "x.png", ["x.pdf", "x.png"]),
        ("svg", "x.svg", ["x.svg"]),
        ("", "x.pdf", ["x.pdf"]),
        ("png,svg,svg", "x", ["x", "x.svg"]),
        (" svg , pdf,", "x.png", ["x.pdf", "x.png", "x.svg"]),
    ],
)
def test_the_file_that_is_named_is_written_and_further_formats_beside_it(
    asked: str, path: str, files: list[str], tmp_path: Path, formats: pytest.MonkeyPatch
) -> None:
    formats.setenv("RNNLAB_FORMAT", asked)
    formats.setattr(plt.Figure, "savefig", lambda self, file, **_: file.write(b"x"))
    style.save(style.make_axes(1)[0], tmp_path / path)
    assert sorted(each.name for each in tmp_path.iterdir()) == files


def test_an_output_of_another_format_is_one_line(tmp_path: Path, formats: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"x\.jpg: unknown format of figures 'jpg'.*known: pdf, png, svg"):
        style.save(style.make_axes(1)[0], tmp_path / "x.jpg")
    plt.close("all")


def test_a_script_writes_what_the_flag_asks_for(tmp_path: Path, formats: pytest.MonkeyPatch) -> None:
    examples.gradient_flow(tmp_path)
    output = tmp_path / "flow.png"
    assert compare_gradient_flow.main([f"--runs=a={tmp_path}", f"--output={output}", "--format=pdf,png"]) == 0
    assert sorted(path.suffix for path in tmp_path.glob("flow.*")) == [".pdf", ".png"]


@pytest.mark.slow
def test_commands_of_a_run_leave_their_figures_in_each_format(tmp_path: Path, formats: pytest.MonkeyPatch) -> None:
    words = [f"--workdir={tmp_path}", "--format=pdf"]
    small = {"steps": 4, "eval_every": 2, "checkpoint_every": 4, "task.length": 6, "model.cell.features": 4}
    fields = [f"--config.{name}={value}" for name, value in (small | {"task.test_size": 8}).items()]
    assert train.main([*words, "--config=rnnlab:adding", "--config.task.validation_size=8", *fields]) == cli.FINISHED
    assert evaluate.main([*words, "--test_lengths=4,8"]) == cli.FINISHED
    names = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert names == {path.stem for path in (tmp_path / "plots").glob("*.pdf")}
    assert names == {"learning_curve", "gradient_flow", "evaluation_by_length"}
