"""The cures: what each changes, its equation and source, and the strengths of it that the study tries."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from scripts.study.protocol import TASKS, StudyTask, marked

CURE_TASKS: dict[str, StudyTask] = {
    "adding_100": marked("adding", 100, 2500, "two numbers, marked"),
    "few_images": StudyTask(
        {**TASKS["permuted_rows"].section, "train_size": 2000},
        2000,
        28,
        "images, 28 pixels at a step in a scrambled order, 2000 to learn from",
        threshold=False,
        metric="accuracy",
    ),
}
"""The tasks of the cures: a long memory of few numbers, and few images, each of which is seen 32 times."""
LONG, FEW = CURE_TASKS
GATED, BARE = ("lstm", "gru"), ("irnn", "lstm")
"""Cells that a cure is run with, where not with all three: those with gates; the plainest and the baseline."""


@dataclasses.dataclass(frozen=True)
class Cure:
    """A technique, and the strengths of it that are tried."""

    path: str
    """The field that it sets."""
    strengths: tuple[Any, ...]
    """Its values; one is chosen where there are several."""
    meant_for: str
    """The task that it should help on."""
    against: str
    """The trouble that it is meant to cure."""
    formula: str
    """The equation, and where it is from."""
    cells: tuple[str, ...] = ("irnn", "lstm", "gru")
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields that it sets."""
    changes_answer: bool = False
    """Whether on `LONG` it would change the answer, so that it is run on `FEW` alone."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task that it is meant for, then the one that it is not."""
        return (self.meant_for,) if self.changes_answer else (self.meant_for, FEW if self.meant_for == LONG else LONG)


CURES: dict[str, Cure] = {
    "clip_norm": Cure(
        "optimizer.clip_norm",
        (0.03, 0.1, 0.3, 3.0),
        LONG,
        "explosion",
        "g ← g min(1, c / ‖g‖) over all parameters; Pascanu et al., 2013, algorithm 1",
    ),
    "clip_adaptive": Cure(
        "optimizer.clip_adaptive",
        (0.01, 0.03, 0.1, 0.3),
        LONG,
        "explosion, whatever the scale of the weights",
        "unit by unit g ← g min(1, λ max(‖w‖, 10⁻³) / ‖g‖); Brock et al., 2021, eq. 3",
    ),
    "cotangent_clip": Cure(
        "model.cotangent.clip_norm",
        (1e-4, 1e-3, 1e-2, 1e-1),
        LONG,
        "explosion, before it reaches the weights",
        "δ_t ← δ_t min(1, c / ‖δ_t‖) at every step and row of the backward pass, δ_t = ∂L/∂(h_t, c_t)",
    ),
    "gradient_norm": Cure(
        "penalties.gradient_norm",
        (0.01, 0.1, 1.0, 10.0),
        LONG,
        "fading",
        "L + λ Ω, Ω = mean_t (‖∂L/∂h_{t+1} ∂h_{t+1}/∂h_t‖ / ‖∂L/∂h_{t+1}‖ − 1)²; Pascanu et al., 2013, eq. 9",
        ("vanilla", "irnn"),
    ),
    "orthogonality": Cure(
        "penalties.orthogonality",
        (1e-4, 1e-3, 1e-2, 1e-1),
        LONG,
        "explosion and fading",
        "L + λ Σ ‖RᵀR − I‖²_F over gates; Vorontsov et al., 2017",
    ),
    "chrono": Cure(
        "model.cell.chrono",
        (50, 100, 200, 400),
        LONG,
        "fading: gates that forget within a few steps",
        "GRU: b_z + log U[1, n - 1]; LSTM: b_f + log U[1, n - 1] and b_i less that; Tallec and Ollivier, 2018, eq. 16",
        GATED,
    ),
    "layer_norm": Cure(
        "model.normalization.cell",
        ("layer",),
        FEW,
        "saturation, scale of weights",
        "LN(x W) + LN(h R) + b in place of x W + h R + b; Ba et al., 2016, eq. 20",
        ("vanilla", "lstm", "gru"),
    ),
    "gradient_noise": Cure(
        "optimizer.gradient_noise",
        (1e-4, 1e-3, 1e-2, 1e-1),
        LONG,
        "plateaus",
        "g + N(0, η / (1 + t)^0.55); Neelakantan et al., 2015, eq. 1",
    ),
    "dropout_state": Cure(
        "model.dropout.state",
        (0.05, 0.1, 0.2, 0.4),
        FEW,
        "overfitting of R",
        "(h_{t-1} ∘ m) R, one m a sequence; Gal and Ghahramani, 2016",
    ),
    "zoneout": Cure(
        "model.dropout.zoneout",
        (0.01, 0.05, 0.1, 0.2),
        FEW,
        "overfitting, without loss of gradient",
        "h_t = d ∘ h_{t-1} + (1 − d) ∘ h̃_t; Krueger et al., 2017",
    ),
    "weight_decay": Cure(
        "optimizer.weight_decay",
        (1e-3, 1e-2, 1e-1, 1.0),
        FEW,
        "overfitting",
        "w ← w − η λ w beside the update; Loshchilov and Hutter, 2019",
    ),
    "averaging": Cure(
        "averaging.decay",
        (0.9, 0.97, 0.99, 0.997),
        LONG,
        "noise of the last steps",
        "a ← a + max(1 − β, 1/n) (θ − a), evaluated in place of θ; Polyak and Juditsky, 1992",
    ),
    "one_cycle": Cure(
        "optimizer.schedule",
        ("one_cycle",),
        LONG,
        "slow start, noise at the end",
        "the rate up, then down; Smith, 2018",
    ),
    "cosine": Cure(
        "optimizer.schedule",
        ("cosine",),
        LONG,
        "noise at the end",
        "η (1 + cos(π t / T)) / 2; Loshchilov and Hutter, 2017",
    ),
    "activation": Cure(
        "penalties.activation",
        (1e-3, 1e-2, 1e-1, 1.0),
        FEW,
        "overfitting, large states",
        "L + α mean(h²); Merity et al., 2018",
    ),
    "unclipped": Cure(
        "optimizer.clip_norm",
        (None,),
        FEW,
        "clipping that slows down what does not explode",
        "no clip at all, where all others have one of 1",
    ),
    "clip_value": Cure(
        "optimizer.clip_value",
        (1e-3, 1e-2, 3e-2, 1e-1),
        LONG,
        "explosion",
        "g_i ← max(-c, min(g_i, c)); Mikolov, 2012",
        BARE,
    ),
    "clip_layer_norm": Cure(
        "optimizer.clip_layer_norm",
        (0.01, 0.03, 0.1, 0.3),
        LONG,
        "explosion in one layer that drowns the others",
        "g_l ← g_l min(1, c / ‖g_l‖) for each layer l",
        BARE,
    ),
    "cotangent_value": Cure(
        "model.cotangent.clip_value",
        (1e-5, 1e-4, 1e-3, 1e-2),
        LONG,
        "explosion, before it reaches the weights",
        "δ_t,i ← max(-c, min(δ_t,i, c)) at every step; after Graves, 2013, section 2.1",
        BARE,
    ),
    "cotangent_scale": Cure(
        "model.cotangent.scale",
        (0.9, 0.97, 0.99, 0.997),
        LONG,
        "explosion with distance",
        "∂L/∂h_t ← s ∂L/∂h_t where it comes from step t + 1",
        BARE,
    ),
    "cut_every": Cure(
        "model.cotangent.cut_every",
        (5, 10, 20, 25),
        LONG,
        "explosion with distance, and the memory that long backward passes take",
        "∂L/∂h_t ← 0 from one window of k steps to the one before, counted back from each row's end; Williams and "
        "Peng, 1990",
        BARE,
    ),
    "warmup": Cure(
        "optimizer.warmup_steps",
        (10, 30, 100, 300),
        LONG,
        "the first steps' spikes",
        "η t / n in the first n steps",
        BARE,
    ),
    "cosine_restarts": Cure(
        "optimizer.schedule",
        ({"name": "cosine_restarts", "period": 500},),
        LONG,
        "poor minima",
        "the cosine again every 500 steps; Loshchilov and Hutter, 2017, eq. 5",
        BARE,
    ),
    "plateau": Cure(
        "optimizer.schedule",
        ({"name": "plateau", "patience": 3, "factor": 0.3},),
        LONG,
        "noise at the end",
        "η ← 0.3 η after three evaluations without improvement",
        BARE,
    ),
    "attention_dot": Cure(
        "model.attention",
        ("dot",),
        LONG,
        "distance: a path of one step to every h_t",
        "Σ_t softmax_t(s W_q · h_t W_k / √H) h_t; Vaswani et al., 2017, eq. 1",
        BARE,
    ),
    "attention_additive": Cure(
        "model.attention",
        ("additive",),
        LONG,
        "the same",
        "scores vᵀ tanh(s W_q + h_t W_k); Bahdanau et al., 2015",
        BARE,
    ),
    "normalize_cell": Cure(
        "model.cell.normalize_cell",
        (True,),
        FEW,
        "saturation of the LSTM's output",
        "h' = σ(o) ∘ tanh(LN(c')), beside layer norm of the gates; Ba et al., 2016, eq. 22",
        ("lstm",),
        {"model.normalization.cell": "layer"},
    ),
    "input_norm": Cure(
        "model.normalization.input",
        ("batch",),
        FEW,
        "inputs of unlike scale",
        "(x − mean) / √(var + ε) over steps and rows; Ioffe and Szegedy, 2015; Laurent et al., 2016",
        BARE,
    ),
    "dropout_input": Cure(
        "model.dropout.input",
        (0.05, 0.1, 0.2, 0.4),
        FEW,
        "overfitting",
        "x ∘ m / (1 − p), m anew at every step; Zaremba et al., 2014",
        BARE,
    ),
    "dropout_same_over_time": Cure(
        "model.dropout.input",
        (0.05, 0.1, 0.2, 0.4),
        FEW,
        "overfitting, without noise that adds up over time",
        "the same with one m a sequence; Gal and Ghahramani, 2016, eq. 7",
        BARE,
        {"model.dropout.same_over_time": True},
    ),
    "dropout_output": Cure(
        "model.dropout.output",
        (0.1, 0.2, 0.3, 0.5),
        FEW,
        "overfitting",
        "the same before the readout; Zaremba et al., 2014",
        BARE,
    ),
    "dropout_candidate": Cure(
        "model.dropout.candidate",
        (0.05, 0.1, 0.2, 0.4),
        FEW,
        "overfitting, without loss of memory",
        "c' = f ∘ c + i ∘ (m_t ∘ g); Semeniuta et al., 2016, eq. 11",
        GATED,
    ),
    "dropout_recurrent_kernel": Cure(
        "model.dropout.recurrent_kernel",
        (0.05, 0.1, 0.2, 0.4),
        FEW,
        "overfitting of R",
        "h (R ∘ M), one M a step of training; Merity et al., 2018",
        BARE,
    ),
    "l1": Cure(
        "penalties.l1.recurrent",
        (1e-6, 1e-5, 1e-4, 1e-3),
        FEW,
        "overfitting, useless connections",
        "L + λ Σ |w| over R; Tibshirani, 1996",
        BARE,
    ),
    "l2": Cure(
        "penalties.l2.recurrent",
        (1e-5, 1e-4, 1e-3, 1e-2),
        FEW,
        "overfitting",
        "L + λ Σ w² over R; Krogh and Hertz, 1992",
        BARE,
    ),
    "max_norm": Cure(
        "optimizer.max_norm",
        (1.0, 2.0, 4.0, 8.0),
        FEW,
        "overfitting, growth of weights",
        "w ← w min(1, c / ‖w‖) for each unit's incoming weights; Srivastava et al., 2014",
        BARE,
    ),
    "temporal_activation": Cure(
        "penalties.temporal_activation",
        (1e-3, 1e-2, 1e-1, 1.0),
        FEW,
        "restless states",
        "L + β mean((h_t − h_{t+1})²); Merity et al., 2018",
        BARE,
    ),
    "noise": Cure("augmentation.noise", (0.01, 0.03, 0.1, 0.3), FEW, "overfitting", "x + N(0, σ²); Bishop, 1995", BARE),
    "pixel_shift": Cure(
        "augmentation.pixel_shift",
        (1, 2, 3, 4),
        FEW,
        "overfitting",
        "the image moved by up to n pixels",
        BARE,
        changes_answer=True,
    ),
    "time_mask": Cure(
        "augmentation.time_mask",
        (1, 2, 4, 8),
        FEW,
        "overfitting",
        "x = 0 over a span of at most n steps; Park et al., 2019",
        BARE,
        changes_answer=True,
    ),
}
"""The cures, those that are run first first. Each stands against the same cell without it."""

_DEEP = "networks of the study have one layer"
_WORDS = "the study has no words"


@dataclasses.dataclass(frozen=True)
class Apart:
    """A technique that the study does not run."""

    line: str
    """Its config line."""
    against: str
    formula: str
    why: str
    """Why the study leaves it out."""


APART: dict[str, Apart] = {
    "residual": Apart(
        "model.connections=residual", "fading with depth", "x_{l+1} = x_l + f_l(x_l); He et al., 2016", _DEEP
    ),
    "highway": Apart(
        "model.connections=highway",
        "fading with depth",
        "g ∘ f_l(x_l) + (1 − g) ∘ x_l; Srivastava et al., 2015, eq. 3",
        _DEEP,
    ),
    "skip": Apart(
        "model.connections=skip",
        "fading with depth",
        "every layer sees the input, the readout every layer; Graves, 2013",
        _DEEP,
    ),
    "dense": Apart(
        "model.connections=dense", "fading with depth", "x_{l+1} = [x_l, f_l(x_l)]; Huang et al., 2017", _DEEP
    ),
    "norm between layers": Apart(
        "model.normalization.between=layer",
        "scale drifting with depth",
        "(x − mean) / √(var + ε) over units, or with batch over steps and rows; Ba et al., 2016",
        _DEEP,
    ),
    "dropout between layers": Apart(
        "model.dropout.between=0.5", "overfitting", "as of the input; Zaremba et al., 2014", _DEEP
    ),
    "recurrent batch norm": Apart(
        "model.normalization.cell=batch",
        "saturation, scale of weights",
        "BN_t(x W) + BN_t(h R) + b, statistics of each time step over rows; Cooijmans et al., 2016, eq. 6 to 8",
        "it runs on the reference backend alone, several times slower",
    ),
    "curriculum by step": Apart(
        "curriculum.field=length curriculum.values=(25,50) curriculum.steps=(250,500)",
        "distance: short sequences first",
        "the field's next value from each of these steps on; Bengio et al., 2009",
        "its runs cannot share a program",
    ),
    "curriculum by threshold": Apart(
        "curriculum.field=length curriculum.values=(25,50) curriculum.metric=loss curriculum.threshold=0.02",
        "the same",
        "the next value at the first evaluation below the threshold",
        "its runs cannot share a program",
    ),
    "early stopping": Apart(
        "early_stopping.patience=2",
        "needless steps",
        "the best checkpoint, once p evaluations bring no better; Prechelt, 1998",
        "all of the study's runs are tested at their best checkpoint",
    ),
    "time shift": Apart(
        "augmentation.time_shift=2",
        "overfitting",
        "x_{t+s}, s uniform in −n to n",
        "pixels in a scrambled order have no neighbours",
    ),
    "word dropout": Apart(
        "model.dropout.embedding=0.1", "overfitting", "whole words of the table; Gal and Ghahramani, 2016", _WORDS
    ),
    "token replacement": Apart(
        "augmentation.token_replacement=0.1", "overfitting", "a token drawn from the vocabulary in its place", _WORDS
    ),
    "word vectors": Apart(
        "model.embedding_file=FILE", "few data", "the embedding begins with vectors of GloVe or word2vec", _WORDS
    ),
}
"""Techniques that the study leaves out, and why."""
