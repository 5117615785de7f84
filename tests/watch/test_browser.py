"""The page in a real browser: it draws what the files hold, without an error of its own. And how long much takes."""

import json
import math
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rnnlab.watch import tails
from rnnlab.watch.page import page
from rnnlab.watch.server import PageServer
from rnnlab.watch.watcher import Watcher
from tests.watch.workdirs import decay, diagnostics_line, lines_of, train_line, write_run, write_summary, write_sweep

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def served(workdir: Path, hand: str = "") -> Iterator[str]:
    """The address of the page; hand: what is done on it after two seconds, as a script."""
    text = page().replace("</script>", f"setTimeout(() => {{ {hand} }}, 2000);\n</script>")
    with PageServer("127.0.0.1", 0, text, Watcher(workdir).answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def shown(url: str, profile: Path) -> str:
    """The page as the browser has it after some seconds of its own time. Fails on an error of a script."""
    if CHROMIUM is None:
        pytest.skip("no Chromium at hand")
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    words += [f"--user-data-dir={profile}", "--virtual-time-budget=4000", "--window-size=1200,900", url]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=120)
    logged = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert logged == []
    return re.sub(r"<script>.*</script>|<style>.*?</style>", "", done.stdout, flags=re.S)


def test_a_browser_shows_a_run_with_all_its_panels(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a <b> run", decay(60), diagnostics=["gradient_flow", "norms"])
    (folder / "diagnostics.jsonl").write_text(lines_of(diagnostics_line(step) for step in range(0, 60, 10)))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(lines_of([train_line(61, "nan")]))
    write_summary(folder, "diverged", 61)
    with served(folder) as url:
        text = shown(url, tmp_path / "profile")
    assert "a &lt;b&gt; run" in text
    assert "61 % a &lt;b&gt; run" in text
    assert re.search(r'class="chip bad">diverged<', text)
    assert f"validation <b>{math.exp(-3) / 2:.4g}"[:20] in text
    assert "baseline" not in re.sub(r"<canvas[^>]*>", "", text)  # It is drawn.
    for title in ("loss", "gradient norm before clipping", "layer 1: ‖∂L/∂hₜ‖", "half-life in time steps"):
        assert re.search(rf"<h3>{re.escape(title)}", text), title
    labels = re.findall(r'<canvas[^>]* aria-label="([^"]*)"', text)
    assert len(labels) == text.count("<canvas")
    assert any(label.startswith("layer 1: ‖∂L/∂hₜ‖, heat map of log₁₀ over training steps 0 to 50") for label in labels)
    assert "--config.diagnostics=gradient_flow,norms,spectrum shows" in text


def test_a_browser_shows_a_sweep_and_one_of_its_runs(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    with served(folder) as url:
        text = shown(url, tmp_path / "profile")
        alone = shown(f"{url}#run=0002", tmp_path / "profile")
    rows = re.findall(r'<tr data-name="(\d+)".*?</tr>', text, re.S)
    assert rows == ["0000", "0001", "0002", "0003"]
    assert text.count('href="#run=') == 4
    assert re.search(r'aria-sort="ascending"><button type="button">run', text)
    assert "1 of 4 runs are over" in text
    assert "← all runs" in alone
    assert "step 20 of 100 (20 %)" in alone


def test_keys_move_along_the_steps_and_all_panels_show_them(tmp_path: Path) -> None:
    keys = "const canvas = document.querySelector('canvas'); canvas.focus();" + "".join(
        f"canvas.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}));" for key in ("Home", "ArrowRight")
    )
    folder = write_run(tmp_path / "run", decay(40))
    with served(folder, keys + "document.querySelector('figure button').click();") as url:
        text = shown(url, tmp_path / "profile")
    assert re.search(r'id="readout"[^>]*>step 2<', text)
    assert f"train <b>{math.exp(-0.1):.4g}</b>" in text
    assert "optimiser <b>0.01</b>" in text
    assert 'aria-label="loss: logarithmic scale; change"' in text


def test_a_click_on_a_column_sorts_the_runs_by_it(tmp_path: Path) -> None:
    click = "[...document.querySelectorAll('thead button')].find(each => each.textContent === 'best').click();"
    folder = write_sweep(tmp_path / "sweep")
    with served(folder, click) as url:
        text = shown(url, tmp_path / "profile")
    assert re.findall(r'<tr data-name="(\d+)"', text) == ["0002", "0001", "0000", "0003"]
    assert re.search(r'aria-sort="ascending"><button type="button">best ▲', text)


def test_a_browser_says_what_it_waits_for(tmp_path: Path) -> None:
    with served(tmp_path / "later") as url:
        text = shown(url, tmp_path / "profile")
    assert "does not exist yet. The page shows it as soon as it is there." in text


def test_many_long_runs_are_read_once_by_arrow_and_then_cost_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 runs of 10 000 lines. The seconds are printed, for docs/how_to/watch_a_run.md."""
    folder = write_sweep(tmp_path, runs=65, lines=0)
    text = lines_of(train_line(step, math.exp(-step / 3000), within=0.123456) for step in range(1, 10_001))
    for run in sorted((folder / "runs").iterdir()):
        (run / "metrics.jsonl").write_text(text)
    given, by_json = [], []
    up_to, objects_of = tails._up_to, tails.objects_of
    monkeypatch.setattr(tails, "_up_to", lambda *of: given.append(up_to(*of)) or given[-1])
    monkeypatch.setattr(tails, "objects_of", lambda lines: by_json.append(lines) or objects_of(lines))
    watcher, began, since, answers = Watcher(folder), time.process_time(), 0, []
    while not answers or answers[-1]["more"]:
        answers.append(watcher.answer("", since, "", answers[-1]["token"] if answers else "", "train/loss"))
        since = answers[-1]["tick"]
    seconds, size = time.process_time() - began, sum(len(json.dumps(answer)) for answer in answers)
    print(f"64 runs of 10 000 lines: {seconds:.2g} s of one core, {size / 1e6:.2g} MB in {len(answers)} answers")
    assert by_json == []
    assert sum(map(len, given)) == len(list((folder / "runs").iterdir())) * len(text)
    assert size < 500_000
    assert answers[-1]["share"] == 1

    time.sleep(0.6)
    with (folder / "runs" / "0007" / "metrics.jsonl").open("a") as file:
        file.write(lines_of([train_line(10_001)]))
    answer = watcher.answer("", since, answers[-1]["hash"], answers[-1]["token"], "train/loss")
    assert [row["name"] for row in answer["rows"]] == ["0007"]
    assert len(json.dumps(answer)) < 2000
    assert by_json == [lines_of([train_line(10_001)]).encode()]
