"""The fields of the config's section `model`, which say what a network is made of. The other files here do it."""

import dataclasses
from typing import Literal

from rnnlab.cells import CellSpec
from rnnlab.config.bounds import Decay, Positive, PositiveInt, Rate, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import check_count
from rnnlab.engine import Backend, NewtonOptions, Store
from rnnlab.ops.initializers import InitializerSpec
from rnnlab.ops.linear import Precision

Readout = Literal["last", "every"]
Connections = Literal["plain", "residual", "highway", "skip", "dense"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecurrenceOptions:
    """How the engine runs every layer; the meanings are those of `rnnlab.unroll`."""

    backend: Backend = "auto"
    """"reference", "fused", "scan" (of cells that are linear in their state), "kernel" (on a GPU or TPU), "native"
    (on a CPU, with a compiler of C++), "newton", or "auto": fused where the cell allows it."""
    chunk: PositiveInt | None = None
    """Fused only: time steps whose projections and gates are held at once; None: chosen from the shapes."""
    unroll_steps: PositiveInt = 1
    """Steps per iteration of the compiled loop."""
    store: Store = "auto"
    """Fused and kernel: what is kept for the backward pass, "gates", "carries" or "ends"; the rest is computed
    again."""
    interpret: bool = False
    """Kernel only: runs the kernel's operations one by one, on any platform, for tests."""
    newton: NewtonOptions = NewtonOptions()
    """Newton only: how all steps are solved for at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CotangentOptions:
    """Changes of the gradient of each row at each time step inside the backward pass of every layer; the meanings are
    those of `rnnlab.engine.Cotangent`."""

    scale: Traced[Positive] | None = None
    """Factor of what comes from the future."""
    cut_every: PositiveInt | None = None
    """Truncated backpropagation: no gradient passes from one window of so many steps to the one before."""
    clip_value: Traced[Positive] | None = None
    """Bound of every element."""
    clip_norm: Traced[Positive] | None = None
    """Bound of each row's 2-norm over all of the carry."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropoutOptions:
    """Probabilities with which something is dropped in training; None: not in the program."""

    input: Traced[Rate] | None = None
    """Units of what enters the first layer (Zaremba et al., 2014), anew at every step."""
    between: Traced[Rate] | None = None
    """Units of what enters the other layers."""
    output: Traced[Rate] | None = None
    """Units of what enters the readout."""
    same_over_time: bool = False
    """For input, between and output: one mask a sequence (Gal and Ghahramani, 2016)."""
    embedding: Traced[Rate] | None = None
    """Whole words of the table, for the batch (Gal and Ghahramani)."""
    state: Traced[Rate] | None = None
    """Units of h_{t-1} where it meets R, one mask a sequence (Gal and Ghahramani)."""
    candidate: Traced[Rate] | None = None
    """Units of what would enter the state, at every step (Semeniuta et al., 2016; LSTM and GRU)."""
    zoneout: Traced[Rate] | None = None
    """Units of h that keep their old value (Krueger et al., 2017)."""
    zoneout_cell: Traced[Rate] | None = None
    """Units of c that keep their old value."""
    recurrent_kernel: Traced[Rate] | None = None
    """Elements of R, for the batch (weight drop, Merity et al., 2018)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalizationOptions:
    """Normalisation in a cell and between layers."""

    cell: Literal["layer", "batch"] | None = None
    """Normalises x W and h R before the gates: "layer" over the units, gate by gate (Ba et al., 2016, eq. 20),
    "batch" over the rows at each time step, and the LSTM's c (Cooijmans et al., 2016; slow, on the reference
    backend)."""
    between: Literal["layer", "batch"] | None = None
    """Normalises the inputs of every layer but the first."""
    input: Literal["layer", "batch"] | None = None
    """Normalises the inputs of the first layer."""
    decay: Traced[Decay] = 0.99
    """Decay rate of the running mean and variance of "batch"."""
    steps: PositiveInt | None = None
    """For cell "batch": how many time steps have running statistics of their own; evaluation takes the last ones for
    later steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftmaxOptions:
    """The readout as a distribution over the task's vocabulary."""

    chunk: PositiveInt | None = None
    """How many words' logits are held at a time; None: as many as are fast."""
    samples: PositiveInt | None = None
    """In training the normaliser is estimated from that many words (`Candidates`); evaluation is exact always."""
    tied: bool = False
    """The words' vectors are those of the embedding (Press and Wolf, 2017)."""
    projection: PositiveInt | None = None
    """A linear layer of that width before the product with them (Sak et al., 2014)."""
    split: PositiveInt | None = None
    """How many devices share the words: each holds the vectors, biases and optimiser state of its part alone (of the
    embedding too, if it is trained), and computes the logits of its words for the rows of all of them; None: all CPUs
    of a process, since large gradients need then not be summed over them, and one of other devices."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The network of a run."""

    cell: CellSpec
    """The recurrent cell; docs/cells.md has the equation of each."""
    layers: PositiveInt = 1
    """How many recurrent layers stand on each other."""
    bidirectional: bool = False
    """Whether each layer also reads from the last step to the first."""
    connections: Connections = "plain"
    """How layers are connected: plain, by the sum (residual, highway) or side by side (skip, dense).

    With x_l what layer l sees and f_l the layer

        plain      x_{l+1} = f_l(x_l)
        residual   x_{l+1} = s(x_l) + f_l(x_l)                              (He et al., 2016)
        highway    x_{l+1} = g ∘ f_l(x_l) + (1 - g) ∘ s(x_l), g = σ(x_l W + b), b = -1 at first
                                                                            (Srivastava et al., 2015)
        skip       x_{l+1} = [x_1, f_l(x_l)]; the readout sees all f_l(x_l) side by side       (Graves, 2013)
        dense      x_{l+1} = [x_l, f_l(x_l)], for the readout too           (Huang et al., 2017)

    where s is the identity, or, between different widths, a linear map (project_shortcuts)."""
    project_shortcuts: bool = True
    """Whether a linear map joins layers of different widths (connections residual and highway)."""
    attention: Literal["dot", "additive"] | None = None
    """The readout sees the weighted mean of h at all steps beside the last state."""
    learned_carry: bool = False
    """Whether what each layer begins with is trained; else it is zero."""
    embedding: PositiveInt | None = None
    """The dimension in which tokens are embedded; None: they are one-hot."""
    embedding_init: InitializerSpec = "small_normal"
    """How the table is drawn."""
    embedding_file: str | None = None
    """The file that a run's table comes from; None: it is drawn."""
    embedding_trained: bool = True
    """Whether steps change the table."""
    input_projection: PositiveInt | None = None
    """The width of a linear layer before the first cell."""
    input_projection_init: InitializerSpec = "glorot_uniform"
    """How its kernel is drawn."""
    readout_init: InitializerSpec = "glorot_uniform"
    """How the readout's kernel is drawn."""
    readout_bias_init: InitializerSpec = "zeros"
    """How the readout's bias is drawn."""
    softmax: SoftmaxOptions | None = None
    """The readout is a distribution over the task's words, whose logits are not held where they are many; None: it is
    linear."""
    normalization: NormalizationOptions = NormalizationOptions()
    """Normalisation in the cell and between layers."""
    dropout: DropoutOptions = DropoutOptions()
    """Dropout in training."""
    cotangent: CotangentOptions = CotangentOptions()
    """Changes of the gradient at each time step of the backward pass."""
    precision: Precision = "highest"
    """How exact all matrix products are: operands as they are, or rounded to TF32 (once, or in three products) or
    bfloat16; parameters, carries and sums stay in float32."""
    recurrence: RecurrenceOptions = RecurrenceOptions()
    """How the engine runs every layer."""


def check_options(options: ModelOptions, vocabulary: int | None, readout: Readout) -> None:
    """Refuses fields that do not go with each other, with the task's vocabulary or with what it asks for.

    Raises:
        ConfigError: they do not.
    """
    check_count(options.layers, "model.layers")  # A config's has been checked; a call's has not.
    if vocabulary is None and options.embedding is not None:
        raise ConfigError("model.embedding: this task's inputs are numbers, not tokens; use input_projection")
    if options.dropout.embedding is not None and options.embedding is None:
        raise ConfigError("model.dropout.embedding: this network has no embedding; use model.dropout.input")
    if options.attention is not None and readout != "last":
        raise ConfigError("model.attention: this task wants an answer at every step; attention gives one at the end")
    if options.embedding is None and (options.embedding_file is not None or not options.embedding_trained):
        field = "embedding_trained=False" if options.embedding_file is None else "embedding_file"
        raise ConfigError(f"model.{field}: needs model.embedding, the vectors' dimension")
