"""Parts of docs/REPRODUCTION.md on experiments whose corpus is not at hand: what other scripts found on a stand-in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnlab.files import read_json, read_text
from rnnlab.files.markdown import markdown_table
from scripts.irnn.figures import gradients_over_time
from scripts.irnn.results import best_rates
from scripts.irnn.rows import percent_text


def _lm1b_stand_in(path: Path, figures: Path, beside: str, where: str, paper: Mapping[str, Any]) -> list[str]:
    """The results that scripts/compare_lm1b.py left."""
    content = read_json(
        path.with_suffix(".json"), MEASURE_AGAIN, {"config": {"steps": int}, "rates": list, "runs": list}
    )
    steps, rates = content["config"]["steps"], ",".join(content["rates"])
    flags = f"--steps={steps}" + (f" --rates={rates}" if rates else "")
    runs = {model: seeds[min(seeds)] for model, seeds in best_rates(content["runs"]).items()}
    return [
        "### The order of the networks on a stand-in\n",
        read_text(path, MEASURE_AGAIN),
        f"![validation perplexity]({beside}/lm1b_standin.png)\n",
        *_stand_in_gradients(runs, figures / "lm1b_gradients.png", where),
        f"```sh\npython scripts/compare_lm1b.py {flags} --output=docs/results/lm1b_standin.json\n```\n",
    ]


def _timit_stand_in(path: Path, figures: Path, beside: str, where: str, paper: Mapping[str, Any]) -> list[str]:
    """The results that scripts/compare_speech.py left, beside the paper's rows of two layers."""
    rows = []
    networks = read_json(path, MEASURE_AGAIN, {"networks": {}})["networks"]
    forwards = {name: row["runs"][0] for name, row in networks.items() if row["runs"] and name.startswith("forwards")}
    for name, row in networks.items():
        if row["runs"]:
            rows.append([name, percent_text(row), str(len(row["runs"]))])
    theirs = "; ".join(
        f"{direction}: " + ", ".join(f"{name} {paper['timit'][f'{key}{suffix}'][1]}" for name, key in _TWO_LAYERS)
        for direction, suffix in (("forwards", ""), ("both directions", "-bidirectional"))
    )
    return [
        "### The order of the networks on NLTK's sample\n",
        "Not the paper's experiment: 4 % of the corpus, 61 phones, two layers of 100 units; see speech.md. The paper's "
        f"two layers on the whole corpus, test, {theirs}.\n",
        markdown_table(["network", "test frame error, %, 95 % interval", "seeds"], rows),
        *_stand_in_gradients(forwards, figures / "speech_gradients.png", where),
        "```sh\npython scripts/compare_speech.py --output=docs/results/speech.json --page=docs/speech.md\n```\n",
    ]


def _stand_in_gradients(runs: Mapping[str, Mapping[str, Any]], path: Path, where: str) -> list[str]:
    """The figure of how far back the gradient of one answer reaches, drawn from runs that have it."""
    flows = {name: flow for name, run in runs.items() if (flow := run.get("gradient_flow"))}
    if not flows:
        return []
    gradients_over_time(flows, {name: number for number, name in enumerate(flows)}, path)
    return [f"![gradients of the last answer before and after training]({where}/{path.name})\n"]


_TWO_LAYERS = (("RNN", "rnn-2x500"), ("LSTM", "lstm-2x250"), ("IRNN", "irnn-2x500"))
STAND_INS = {"lm1b": ("lm1b_standin.md", _lm1b_stand_in), "timit": ("speech.json", _timit_stand_in)}
"""For an experiment whose corpus is not at hand: a file of the results, shown if it is there, and the lines of it."""
MEASURE_AGAIN = "move it away and measure anew"
