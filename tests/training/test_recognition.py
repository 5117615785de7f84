"""Viterbi decoding on hand-made posteriors and against all paths, phone errors, and evaluation of a run by --decode."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from rnnlab import cli, evaluate
from rnnlab.config.errors import ConfigError
from rnnlab.datasets.phones import PHONES, folding
from rnnlab.datasets.timit import Corpus, Utterances
from rnnlab.tasks import Speech
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.recognition import Decoder, decode, make_decoder, merged, phone_errors, recognize, viterbi
from rnnlab.training.setup import make_run
from tests.generated_timit import SPEAKERS, write_corpus

WHOLE_PICTURES = True  # As tests/conftest.py has it.


def decoder_of(stay: float, phones: int = 3) -> Decoder:
    """Phones that stay with this probability, and go anywhere else alike."""
    transitions = np.full((phones, phones), (1 - stay) / (phones - 1))
    np.fill_diagonal(transitions, stay)
    uniform = np.log(np.full(phones, 1 / phones))
    return Decoder(uniform, np.log(transitions), uniform, np.arange(phones))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("data")
    write_corpus(root / "TIMIT", SPEAKERS, phones=4)
    return {"folder": str(root / "TIMIT"), "cache_dir": str(root / "cache")}


# --- decoding --------------------------------------------------------------------------------------------------------


def test_viterbi_finds_the_best_of_all_paths():
    rng = np.random.default_rng(0)
    decoder = Decoder(*(np.log(rng.dirichlet(np.ones(3), size)) for size in (None, 3, None)), np.arange(3))
    for _ in range(20):
        scores = rng.standard_normal((5, 3))

        def total(path: tuple[int, ...], scores: np.ndarray = scores) -> float:
            moves = sum(decoder.transitions[pair] for pair in itertools.pairwise(path))
            return decoder.initial[path[0]] + moves + sum(scores[t, c] for t, c in enumerate(path))

        best = max(itertools.product(range(3), repeat=5), key=total)
        assert tuple(viterbi(scores, decoder)) == best


def test_an_utterance_of_one_frame_is_its_likeliest_class():
    assert viterbi(np.array([[0.0, 2.0, 1.0]]), decoder_of(0.9)).tolist() == [1]


def test_a_single_doubtful_frame_does_not_break_a_phone():
    p = np.full((9, 3), 0.05)
    p[:4, 0] = p[5:, 0] = 0.9
    p[4] = [0.4, 0.55, 0.05]  # For one frame, another phone looks a little likelier.
    decoder = decoder_of(0.9)
    assert np.log(p).argmax(1).tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert decode(np.log(p), decoder, 1.0).tolist() == [0] * 9
    p[3:6] = [0.01, 0.98, 0.01]
    assert decode(np.log(p), decoder, 1.0).tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert decode(np.log(p), decoder, 0.1).tolist() == [0] * 9  # The network hardly counts.


def test_frequent_classes_win_no_frame_by_being_frequent():
    decoder = decoder_of(1 / 3)._replace(priors=np.log([0.8, 0.1, 0.1]))
    p = np.log(np.array([[0.6, 0.3, 0.1]] * 2))  # Class 1 is three times as likely as its share, class 0 less.
    assert decode(p, decoder, 1.0).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("phones", "expected"),
    [([1, 1, 2, 2, 2, 1], [1, 2, 1]), ([-1, 3, -1, 3, 4, -1], [3, 4]), ([-1, -1], []), ([], []), ([0, 0], [0])],
)
def test_repetitions_count_once_and_what_is_in_no_set_not_at_all(phones, expected):
    assert merged(np.array(phones, np.int32)).tolist() == expected


# --- what is estimated -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["phones61", "phones48", "phones39", "states"])
def test_chains_are_distributions_that_allow_every_training_utterance(corpus, targets):
    task = Speech(**corpus, bucket=1, targets=targets)
    decoder = make_decoder(task)
    np.testing.assert_allclose(np.exp(decoder.transitions).sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(decoder.initial).sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(decoder.priors).sum(), 1, rtol=1e-12)
    train = task.corpus.splits["train"]
    for number in range(len(train)):
        classes = train.targets[train.rows(number)]
        classes = classes[classes >= 0]
        assert np.isfinite(decoder.initial[classes[0]])
        assert np.isfinite(decoder.transitions[classes[:-1], classes[1:]]).all()


@pytest.mark.parametrize("targets", ["phones61", "phones39", "states"])
def test_certain_posteriors_give_back_what_was_spoken(corpus, targets):
    task = Speech(**corpus, bucket=1, targets=targets)
    decoder = make_decoder(task)
    test = task.corpus.splits["test"]
    for number, spoken in enumerate(test.transcripts):
        classes = test.targets[test.rows(number)]
        if (classes < 0).any():
            continue  # Nobody can be certain of a frame without a class.
        p = np.full((len(classes), task.out_features), 1e-6)
        p[np.arange(len(classes)), classes] = 1
        found = merged(task.corpus.folded[decode(np.log(p), decoder, 1.0)])
        assert found.tolist() == merged(folding(39)[spoken]).tolist()


def spoken_task(utterances: list[list[int]], frames: int) -> Speech:
    """A task of 61 phones whose training split is this, every phone for so many frames."""
    targets = [np.repeat(phones, frames).astype(np.int32) for phones in utterances]
    train = Utterances(
        features=np.zeros((0, 120)),
        offsets=np.cumsum([0, *map(len, targets)]),
        targets=np.concatenate(targets),
        ids=("A",) * len(utterances),
        speakers=("A",) * len(utterances),
        transcripts=tuple(np.array(phones, np.int32) for phones in utterances),
    )
    task = object.__new__(Speech)
    task.targets, task.corpus = "phones61", Corpus({"train": train}, PHONES[61], folding(39), ())
    return task


def test_chain_is_what_was_counted_by_hand():
    # 5 ends an utterance twice, which says nothing of how long it lasts or of what follows it.
    decoder = make_decoder(spoken_task([[0, 1, 0, 1, 2, 5], [1, 2, 0, 1, 5]], frames=3))
    unigram = (1 + np.bincount([0, 1, 0, 1, 2, 5, 1, 2, 0, 1, 5], minlength=61)) / (61 + 11)
    start = (np.bincount([0, 1], minlength=61) + 10 * unigram) / (2 + 10)
    np.testing.assert_allclose(np.exp(decoder.initial), start, rtol=1e-12)
    follows = {0: [1, 1, 1], 1: [0, 2, 2, 5], 2: [5, 0], 5: [], 7: []}
    for phone, after in follows.items():
        bigram = (np.bincount(after, minlength=61) + 10 * unigram) / (len(after) + 10)
        stays = 1 + 2 * {0: 3, 1: 4, 2: 2, 5: 2, 7: 0}[phone]
        leaves = 1 + len(after)
        expected = leaves / (stays + leaves) * bigram
        expected[phone] += stays / (stays + leaves)
        np.testing.assert_allclose(np.exp(decoder.transitions[phone]), expected, rtol=1e-12)
    frames = 1 + 3 * np.bincount([0, 1, 0, 1, 2, 5, 1, 2, 0, 1, 5], minlength=61)
    np.testing.assert_allclose(np.exp(decoder.priors), frames / frames.sum(), rtol=1e-12)


def test_states_run_forwards_within_a_phone(corpus):
    task = Speech(**corpus, bucket=1, targets="states")
    transitions = make_decoder(task).transitions.reshape(61, 3, 61, 3)
    pause = PHONES[61].index("h#")  # It begins and ends every utterance, for six frames or more.
    within = np.exp(transitions[pause, :, pause])
    assert within[0, 1] > 10 * within[0, 2]
    assert within[1, 2] > 10 * within[1, 0]
    assert (np.diag(within) > 0.3).all()


def test_ids_of_a_kaldi_alignment_cannot_be_decoded():
    task = spoken_task([[0, 1]], frames=1)
    task.targets, task.corpus = "ali.txt", Corpus(task.corpus.splits, ("0", "1"), None, ())
    with pytest.raises(ConfigError, match=r"ali\.txt.*states or phones61"):
        make_decoder(task)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_phone_errors_count_what_was_changed_left_out_and_added():
    spoken = [np.array([1, 2, 3, 4]), np.array([5])]
    found = phone_errors(spoken, [np.array([1, 7, 4]), np.array([5, 6])])
    expected = {"phone_error_rate": 3 / 5, "substitutions": 1, "deletions": 1, "insertions": 1, "phones": 5}
    assert found == expected
    assert phone_errors(spoken, spoken)["phone_error_rate"] == 0
    assert phone_errors(spoken, [np.array([], int)] * 2)["deletions"] == 5


def test_without_jiwer_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jiwer", None)
    with pytest.raises(ConfigError, match=r"jiwer.*rnnlab\[speech\]"):
        phone_errors([np.array([1])], [np.array([1])])


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_decodes_a_run_and_draws_what_it_found(corpus, tmp_path: Path, capsys):
    config = {
        "steps": 2,
        "batch_size": 3,
        "eval_batch_size": 3,  # The splits have four utterances: the last batch is not full.
        "eval_every": 2,
        "checkpoint_every": 2,
        "devices": 1,
        "task": {"name": "speech", **corpus, "bucket": 3},
        "model": {"cell": {"name": "gru", "features": 8}},
        "optimizer": {"name": "adam", "learning_rate": 0.03},
    }
    train_and_evaluate(config, tmp_path)
    capsys.readouterr()
    assert evaluate.main([f"--workdir={tmp_path}", "--split=all", "--decode"]) == cli.FINISHED
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(result) == {"validation", "test"}
    transcripts = json.loads((tmp_path / "recognition.json").read_text())
    for split in result:
        assert f"split {split}  " in said
        values = result[split]
        assert 0 < values["frame_error_39"] <= 1
        spoken = [u["spoken"].split() for u in transcripts[split]["transcripts"].values()]
        assert values["phones"] == sum(map(len, spoken))
        wrong = values["substitutions"] + values["deletions"] + values["insertions"]
        assert values["phone_error_rate"] == pytest.approx(wrong / values["phones"], rel=1e-12)
    with np.load(tmp_path / "recognition.npz") as arrays:
        confusion, true = arrays["confusion"], arrays["spoken"]
        right = np.trace(confusion) / confusion.sum()
        assert right == pytest.approx(1 - result["test"]["frame_error_39"], rel=1e-12)
        np.testing.assert_allclose(arrays["posteriors"].sum(1), 1, atol=0.2)  # What is missing is the glottal stop's.
        assert len(true) == len(arrays["features"]) == len(arrays["posteriors"]) == len(arrays["decoded"])
    for name in ("utterance.png", "confusion.png"):
        assert (tmp_path / "plots" / name).stat().st_size > 10_000


def test_decode_is_refused_for_a_task_without_phones():
    config = {
        "steps": 1,
        "devices": 1,
        "task": {"name": "adding", "length": 4, "validation_size": 10, "test_size": 10},
        "model": {"cell": {"name": "irnn", "features": 2}},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
    }
    run = make_run(config)
    with pytest.raises(ConfigError, match="no phones to decode"):
        recognize(run, run.programs.start(0), "test")
