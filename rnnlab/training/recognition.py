"""Phones recognised by a trained network of the task speech: Viterbi over its posteriors with a phone bigram.

Everything is scored on the 39 phones of Lee and Hon (1989). The figures are in `plots/speech.py`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.phones import PHONES, folding
from rnnlab.datasets.timit import STATES
from rnnlab.tasks import Speech, Split
from rnnlab.training.outputs import batches_of
from rnnlab.training.run import Run
from rnnlab.training.state import TrainState

SCALES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1)
"""Weights of the network against the bigram that are tried on the validation split."""
PRIOR_PHONES = 10.0
"""How many phones' worth of the unigram each row of the bigram starts from."""


# --- the decoder -----------------------------------------------------------------------------------------------------


class Decoder(NamedTuple):
    """A Markov chain over a task's C classes, in logarithms, estimated on the training split."""

    initial: np.ndarray
    """[C]."""
    transitions: np.ndarray
    """[C, C], from row to column: to stay within a phone, or to leave it for another by the bigram."""
    priors: np.ndarray
    """[C], the share of frames."""
    phones: np.ndarray
    """[C], the phone that each class belongs to."""


def make_decoder(task: Speech) -> Decoder:
    """Durations from the frames, the bigram from the transcripts, both of the training split.

    A class c is followed, within its phone, by what follows it there in training, and left with the share of
    its frames that end their phone (each count raised by one). The bigram P(b | a) = (n_ab + κ P(b)) / (n_a + κ), κ =
    PRIOR_PHONES, is smoothed as by MacKay and Peto (1995); P(b) is the unigram, each count raised by one.

    Raises:
        ConfigError: the task's classes are the ids of a Kaldi alignment, which name no phones here.
    """
    corpus = task.corpus
    if corpus.folded is None:
        raise ConfigError(
            f"phones cannot be decoded from task.targets={task.targets!r}, whose ids name no phones here; "
            "train on states or phones61"
        )
    per_phone = STATES if task.targets == "states" else 1
    phones = np.arange(corpus.classes) // per_phone
    count = corpus.classes // per_phone
    train = corpus.splits["train"]
    spoken = [merged(folding(count)[phones]) for phones in train.transcripts]
    starts, follows = np.zeros(count), np.zeros((count, count))
    for sequence in spoken:
        starts[sequence[0]] += 1
        np.add.at(follows, (sequence[:-1], sequence[1:]), 1)
    unigram = 1 + np.bincount(np.concatenate(spoken), minlength=count)
    unigram = unigram / unigram.sum()
    bigram = _smoothed(follows, unigram)
    start = _smoothed(starts[None], unigram)[0]

    within, exits, enters = _frame_counts(train.targets, train.offsets, phones)
    total = within.sum(1) + exits
    leave = exits / total
    enter = enters / enters.reshape(count, per_phone).sum(1)[phones]
    transitions = within / total[:, None] + leave[:, None] * bigram[np.ix_(phones, phones)] * enter
    frames = 1 + np.bincount(train.targets[train.targets >= 0], minlength=corpus.classes)
    with np.errstate(divide="ignore"):  # The logarithm of an impossible class.
        logs = np.log(start[phones] * enter), np.log(transitions), np.log(frames / frames.sum())
    return Decoder(*logs, phones)


def _smoothed(counts: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Rows of probabilities."""
    return (counts + PRIOR_PHONES * prior) / (counts.sum(1, keepdims=True) + PRIOR_PHONES)


def _frame_counts(
    targets: np.ndarray, offsets: np.ndarray, phones: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each class is followed within its phone by another [C, C], ends its phone [C], and begins it [C]."""
    classes = len(phones)
    last = np.zeros(len(targets), bool)  # The last frame of an utterance is followed by nothing.
    last[offsets[1:] - 1] = True
    now, then = targets[:-1], targets[1:]
    counted = (now >= 0) & (then >= 0) & ~last[:-1]
    stays = counted & (phones[now] == phones[then]) & (now <= then)
    within = np.diag(np.ones(classes))
    np.add.at(within, (now[stays], then[stays]), 1)
    leaves = counted & ~stays
    exits = 1 + np.bincount(now[leaves], minlength=classes)
    enters = np.bincount(then[leaves], minlength=classes).astype(float)
    enters[np.unique(phones, return_index=True)[1]] += 1  # A phone begins with its first state.
    return within, exits.astype(float), enters


def viterbi(scores: np.ndarray, decoder: Decoder) -> np.ndarray:
    """The most probable classes, int [T], for log likelihoods [T, C]."""
    best = decoder.initial + scores[0]
    origins = np.empty(scores.shape, np.int32)
    for step in range(1, len(scores)):
        options = best[:, None] + decoder.transitions
        origins[step] = options.argmax(0)
        best = options.max(0) + scores[step]
    path = np.empty(len(scores), np.int32)
    path[-1] = best.argmax()
    for step in range(len(scores) - 1, 0, -1):
        path[step - 1] = origins[step, path[step]]
    return path


def decode(posteriors: np.ndarray, decoder: Decoder, scale: float) -> np.ndarray:
    """The classes of an utterance, int [T], from log posteriors [T, C].

    The network stands for the likelihood p(x | c) ∝ p(c | x) / p(c) (Bourlard and Morgan, 1994), to the power `scale`:
    neighbouring frames are far from independent, and the bigram would hardly count beside their product.
    """
    return viterbi(scale * (posteriors - decoder.priors), decoder)


def merged(phones: np.ndarray) -> np.ndarray:
    """The phones of a transcript or of frames in the order spoken, repetitions as one, without those in no set (-1)."""
    spoken = phones[phones >= 0]
    return spoken[np.diff(spoken, prepend=-1) != 0]


def phone_errors(references: Sequence[np.ndarray], hypotheses: Sequence[np.ndarray]) -> dict[str, float]:
    """The phone error rate over all utterances, (S + D + I) / N, and its parts.

    Args:
        references, hypotheses: numbers among the 39 phones, as `merged` leaves them.

    Raises:
        ConfigError: jiwer is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise ConfigError(f"phone error rates need jiwer ({error}): pip install 'rnnlab[speech]'") from None
    spoken, recognised = ([named(phones) for phones in side] for side in (references, hypotheses))
    counts = jiwer.process_words(spoken, recognised)
    return {
        "phone_error_rate": counts.wer,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "phones": counts.hits + counts.substitutions + counts.deletions,
    }


# --- a run -----------------------------------------------------------------------------------------------------------


class Recognition(NamedTuple):
    """The phones recognised in a split."""

    values: dict[str, Any]
    """The rates, as JSON."""
    transcripts: dict[str, dict[str, str]]
    """The phones of each utterance, by id: "spoken" and "recognised", with spaces between."""
    arrays: dict[str, np.ndarray]
    """confusion [39, 39], frames of a true phone (row) taken for another; and of one utterance features [T, 120],
    posteriors [T, 39], spoken and decoded [T], numbers among the 39 or -1; its id."""


def recognize(run: Run, state: TrainState, split: Split) -> Recognition:
    """Decodes a split; the weight of the network against the bigram is the best of SCALES on the validation split.

    values: frame_error_39, of the phone whose classes have the largest sum of posteriors; acoustic_scale; and what
    `phone_errors` gives.

    Raises:
        ConfigError: a run of another task, or what `make_decoder` and `phone_errors` raise.
    """
    task = run.task
    if not isinstance(task, Speech):
        raise ConfigError("--decode: this task has no phones to decode; it is for the task speech")
    decoder = make_decoder(task)
    folded = task.corpus.folded
    assert folded is not None
    spoken = {
        name: [merged(folding(39)[t]) for t in utterances.transcripts]
        for name, utterances in task.corpus.splits.items()
    }

    def decoded(posteriors: list[np.ndarray], scale: float) -> list[np.ndarray]:
        return [decode(each, decoder, scale) for each in posteriors]

    def errors(paths: list[np.ndarray], name: Split) -> dict[str, float]:
        return phone_errors(spoken[name], [merged(folded[path]) for path in paths])

    validation = log_posteriors(run, state, "validation")
    rates = {scale: errors(decoded(validation, scale), "validation")["phone_error_rate"] for scale in SCALES}
    scale = min(rates, key=lambda s: rates[s])
    posteriors = validation if split == "validation" else log_posteriors(run, state, split)
    paths = decoded(posteriors, scale)
    utterances = task.corpus.splits[split]
    true = np.where(utterances.targets >= 0, folded[utterances.targets], -1)
    summed = [_summed(each, folded) for each in posteriors]
    guessed = np.concatenate([each.argmax(-1) for each in summed])
    scored = true >= 0
    confusion = np.zeros((39, 39), np.int64)
    np.add.at(confusion, (true[scored], guessed[scored]), 1)
    values = {"frame_error_39": float((true != guessed)[scored].mean()), "acoustic_scale": scale}
    transcripts = {
        name: {"spoken": named(reference), "recognised": named(merged(folded[path]))}
        for name, reference, path in zip(utterances.ids, spoken[split], paths, strict=True)
    }
    rows = utterances.rows(0)
    arrays = {
        "confusion": confusion,
        "id": np.array(utterances.ids[0]),
        "features": np.asarray(utterances.features[rows]),
        "posteriors": summed[0],
        "spoken": true[rows],
        "decoded": folded[paths[0]],
    }
    return Recognition(values | errors(paths, split), transcripts, arrays)


def log_posteriors(run: Run, state: TrainState, split: Split) -> list[np.ndarray]:
    """ln p(class | features) of every utterance of a split of the run's task, float32 [T, C] each."""
    posteriors = []
    for (values, lengths), rows in batches_of(run, state, split, lambda o, b: (jax.nn.log_softmax(o), b.lengths)):
        posteriors += [values[:length, row] for row, length in enumerate(lengths[:rows])]
    return posteriors


def _summed(posteriors: np.ndarray, folded: np.ndarray) -> np.ndarray:
    """Log posteriors of classes [T, C] -> posteriors of the 39 phones [T, 39]."""
    summed = np.zeros((len(posteriors), 39), posteriors.dtype)
    in_phones = folded >= 0
    np.add.at(summed.T, folded[in_phones], np.exp(posteriors.T[in_phones]))
    return summed


def named(phones: np.ndarray) -> str:
    """Numbers among the 39 phones as text."""
    return " ".join(PHONES[39][phone] for phone in phones)
