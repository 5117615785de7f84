"""The cures that `measure_mitigations.py` measures: the setting where each should matter, and what it changes."""

from typing import Any, NamedTuple


class Cure(NamedTuple):
    """One technique, and where it is measured."""

    setting: str
    overrides: dict[str, Any]
    against: str
    """The trouble that it cures."""
    formula: str
    """The equation, and where it is from."""


CURES: dict[str, Cure] = {
    "clip_norm": Cure(
        "exploding",
        {"optimizer.clip_norm": 1.0},
        "explosion",
        "g ← g min(1, c / ‖g‖) over all parameters; Pascanu et al., 2013, algorithm 1",
    ),
    "clip_value": Cure(
        "exploding", {"optimizer.clip_value": 0.1}, "explosion", "g_i ← max(-c, min(g_i, c)); Mikolov, 2012"
    ),
    "clip_layer_norm": Cure(
        "exploding",
        {"optimizer.clip_layer_norm": 1.0},
        "explosion in one layer that drowns the others",
        "g_l ← g_l min(1, c / ‖g_l‖) for each layer l",
    ),
    "clip_adaptive": Cure(
        "exploding",
        {"optimizer.clip_adaptive": 0.05},
        "explosion, whatever the scale of the weights",
        "unit by unit g ← g min(1, λ max(‖w‖, 10⁻³) / ‖g‖); Brock et al., 2021, eq. 3",
    ),
    "cotangent.clip_norm": Cure(
        "exploding",
        {"model.cotangent.clip_norm": 0.005},
        "explosion, before it reaches the weights",
        "δ_t ← δ_t min(1, c / ‖δ_t‖) at every step and row of the backward pass, δ_t = ∂L/∂(h_t, c_t)",
    ),
    "cotangent.clip_value": Cure(
        "exploding",
        {"model.cotangent.clip_value": 0.1},
        "explosion, before it reaches the weights",
        "δ_t,i ← max(-c, min(δ_t,i, c)) at every step; Graves, 2013, section 2.1",
    ),
    "cotangent.scale": Cure(
        "exploding",
        {"model.cotangent.scale": 0.98},
        "explosion with distance",
        "∂L/∂h_t ← s ∂L/∂h_t where it comes from step t + 1",
    ),
    "cotangent.cut_every": Cure(
        "exploding",
        {"model.cotangent.cut_every": 50},
        "explosion with distance, and memory",
        "∂L/∂h_t ← 0 from one window of k steps to the one before, counted back from each row's end; Williams "
        "and Peng, 1990",
    ),
    "penalties.orthogonality": Cure(
        "exploding",
        {"penalties.orthogonality": 1e-2},
        "explosion and fading",
        "L + λ Σ ‖RᵀR − I‖²_F over gates; Vorontsov et al., 2017",
    ),
    "averaging": Cure(
        "held",
        {"averaging.decay": 0.99},
        "noise of the last steps",
        "a ← a + max(1 − β, 1/n) (θ − a), evaluated in place of θ; Polyak and Juditsky, 1992",
    ),
    "penalties.gradient_norm": Cure(
        "vanishing",
        {"penalties.gradient_norm": 1.0},
        "fading",
        "L + λ Ω, Ω = mean_t (‖∂L/∂h_{t+1} ∂h_{t+1}/∂h_t‖ / ‖∂L/∂h_{t+1}‖ − 1)²; Pascanu et al., 2013, eq. 9",
    ),
    "gradient_noise": Cure(
        "vanishing",
        {"optimizer.gradient_noise": 0.01},
        "plateaus",
        "g + N(0, η / (1 + t)^0.55); Neelakantan et al., 2015, eq. 1",
    ),
    "normalization.cell=layer": Cure(
        "vanishing",
        {"model.normalization.cell": "layer"},
        "saturation, scale of weights",
        "LN(x W) + LN(h R) + b in place of x W + h R + b; Ba et al., 2016, eq. 20",
    ),
    "cell.chrono": Cure(
        "long",
        {"model.cell.chrono": 200},
        "fading: gates that forget within a few steps",
        "GRU: b_z + log U[1, n - 1]; LSTM: b_f + log U[1, n - 1] and b_i less that; Tallec and Ollivier, 2018, eq. 16",
    ),
    "attention=dot": Cure(
        "long",
        {"model.attention": "dot"},
        "distance: a path of one step to every h_t",
        "Σ_t softmax_t(s W_q · h_t W_k / √H) h_t; Vaswani et al., 2017, eq. 1",
    ),
    "attention=additive": Cure(
        "long",
        {"model.attention": "additive"},
        "the same",
        "scores vᵀ tanh(s W_q + h_t W_k); Bahdanau et al., 2015",
    ),
    "curriculum by step": Cure(
        "long",
        {"curriculum": {"field": "length", "values": (25, 50, 100), "steps": (250, 500, 800)}},
        "distance: short sequences first",
        "T = 25, 50, 100, 200 from steps 0, 250, 500, 800; Bengio et al., 2009",
    ),
    "curriculum by threshold": Cure(
        "long",
        {"curriculum": {"field": "length", "values": (25, 50, 100), "metric": "loss", "threshold": 0.02}},
        "the same",
        "the next T at the first evaluation below 0.02",
    ),
    "schedule=cosine": Cure(
        "held",
        {"optimizer.schedule": "cosine"},
        "noise at the end",
        "η (1 + cos(π t / T)) / 2; Loshchilov and Hutter, 2017",
    ),
    "schedule=one_cycle": Cure(
        "held", {"optimizer.schedule": "one_cycle"}, "slow start, noise at the end", "up, then down; Smith, 2018"
    ),
    "schedule=cosine_restarts": Cure(
        "held",
        {"optimizer.schedule": {"name": "cosine_restarts", "period": 400}},
        "poor minima",
        "the cosine again every 400 steps; Loshchilov and Hutter, 2017, eq. 5",
    ),
    "schedule=plateau": Cure(
        "held",
        {"optimizer.schedule": {"name": "plateau", "patience": 1, "factor": 0.3}, "eval_every": 200},
        "noise at the end",
        "η ← 0.3 η after an evaluation without improvement",
    ),
    "warmup_steps": Cure(
        "held", {"optimizer.warmup_steps": 200}, "the first steps' spikes", "η t / 200 in the first 200 steps"
    ),
    "connections=residual": Cure(
        "deep",
        {"model.connections": "residual"},
        "fading with depth",
        "x_{l+1} = x_l + f_l(x_l); He et al., 2016",
    ),
    "connections=highway": Cure(
        "deep",
        {"model.connections": "highway"},
        "fading with depth",
        "g ∘ f_l(x_l) + (1 − g) ∘ x_l; Srivastava et al., 2015, eq. 3",
    ),
    "connections=skip": Cure(
        "deep",
        {"model.connections": "skip"},
        "fading with depth",
        "every layer sees the input, the readout every layer; Graves, 2013",
    ),
    "connections=dense": Cure(
        "deep",
        {"model.connections": "dense"},
        "fading with depth",
        "x_{l+1} = [x_l, f_l(x_l)]; Huang et al., 2017",
    ),
    "normalization.between=layer": Cure(
        "deep",
        {"model.normalization.between": "layer"},
        "scale drifting with depth",
        "(x − mean) / √(var + ε) over units; Ba et al., 2016",
    ),
    "normalization.between=batch": Cure(
        "deep",
        {"model.normalization.between": "batch"},
        "scale drifting with depth",
        "the same over steps and rows; Ioffe and Szegedy, 2015; Laurent et al., 2016",
    ),
    "normalization.input=batch": Cure(
        "overfitting",
        {"model.normalization.input": "batch"},
        "inputs of unlike scale",
        "the same, of the inputs",
    ),
    "normalization.cell=batch": Cure(
        "overfitting",
        {"model.normalization.cell": "batch", "model.normalization.steps": 28},
        "saturation, scale of weights",
        "BN_t(x W) + BN_t(h R) + b, statistics of each time step over rows; Cooijmans et al., 2016, eq. 6 to 8",
    ),
    "cell.normalize_cell": Cure(
        "overfitting",
        {"model.cell.normalize_cell": True, "model.normalization.cell": "layer"},
        "saturation of the LSTM's output",
        "h' = σ(o) ∘ tanh(LN(c')), beside layer norm of the gates; Ba et al., 2016, eq. 22",
    ),
    "dropout.input": Cure(
        "overfitting", {"model.dropout.input": 0.2}, "overfitting", "x ∘ m / (1 − p); Srivastava et al., 2014"
    ),
    "dropout.between": Cure(
        "overfitting", {"model.dropout.between": 0.5}, "overfitting", "between layers; Zaremba et al., 2014"
    ),
    "dropout.output": Cure(
        "overfitting", {"model.dropout.output": 0.5}, "overfitting", "before the readout; Zaremba et al., 2014"
    ),
    "dropout.same_over_time": Cure(
        "overfitting",
        {"model.dropout": {"input": 0.2, "between": 0.3, "state": 0.3, "same_over_time": True}},
        "overfitting, and noise that adds up over time",
        "one mask a sequence, on inputs and state; Gal and Ghahramani, 2016, eq. 7",
    ),
    "dropout.state": Cure(
        "overfitting",
        {"model.dropout.state": 0.3},
        "overfitting of R",
        "(h_{t-1} ∘ m) R, one m a sequence; Gal and Ghahramani, 2016",
    ),
    "dropout.candidate": Cure(
        "overfitting",
        {"model.dropout.candidate": 0.3},
        "overfitting, without loss of memory",
        "c' = f ∘ c + i ∘ (m_t ∘ g); Semeniuta et al., 2016, eq. 11",
    ),
    "dropout.zoneout": Cure(
        "overfitting",
        {"model.dropout.zoneout": 0.1, "model.dropout.zoneout_cell": 0.3},
        "overfitting, without loss of gradient",
        "h_t = d ∘ h_{t-1} + (1 − d) ∘ h̃_t; Krueger et al., 2017",
    ),
    "dropout.recurrent_kernel": Cure(
        "overfitting",
        {"model.dropout.recurrent_kernel": 0.5},
        "overfitting of R",
        "h (R ∘ M), one M a step of training; Merity et al., 2018",
    ),
    "penalties.l1": Cure(
        "overfitting",
        {"penalties.l1": {"input": 1e-4, "recurrent": 1e-4, "readout": 1e-4}},
        "overfitting, useless inputs",
        "L + λ Σ |w|; Tibshirani, 1996",
    ),
    "penalties.l2": Cure(
        "overfitting",
        {"penalties.l2": {"input": 1e-3, "recurrent": 1e-3, "readout": 1e-3}},
        "overfitting",
        "L + λ Σ w²; Krogh and Hertz, 1992",
    ),
    "weight_decay": Cure(
        "overfitting",
        {"optimizer.weight_decay": 0.1},
        "overfitting",
        "w ← w − η λ w beside the update; Loshchilov and Hutter, 2019",
    ),
    "max_norm": Cure(
        "overfitting",
        {"optimizer.max_norm": 2.0},
        "overfitting, growth of weights",
        "w ← w min(1, c / ‖w‖) for each unit's incoming weights; Srivastava et al., 2014",
    ),
    "penalties.activation and temporal_activation": Cure(
        "overfitting",
        {"penalties.activation": 2.0, "penalties.temporal_activation": 1.0},
        "overfitting, restless states",
        "L + α mean(h²) + β mean((h_t − h_{t+1})²); Merity et al., 2018",
    ),
    "augmentation.noise": Cure("overfitting", {"augmentation.noise": 0.3}, "overfitting", "x + N(0, σ²); Bishop, 1995"),
    "augmentation.time_shift": Cure(
        "overfitting", {"augmentation.time_shift": 2}, "overfitting", "x_{t+s}, s uniform in −n to n"
    ),
    "augmentation.time_mask": Cure(
        "overfitting",
        {"augmentation.time_mask": 8},
        "overfitting",
        "x = 0 over a span of at most n steps; Park et al., 2019",
    ),
    "augmentation.pixel_shift": Cure(
        "overfitting", {"augmentation.pixel_shift": 2}, "overfitting", "the image moved by up to n pixels"
    ),
    "early_stopping": Cure(
        "overfitting",
        {"early_stopping.patience": 2, "eval_every": 100},
        "overfitting, needless steps",
        "the best checkpoint, once p evaluations bring no better; Prechelt, 1998",
    ),
}
