"""ModelConfig: the sizes and cell of a captioner, which determine the shapes of its parameters."""

from dataclasses import KW_ONLY, dataclass

from xpcap.errors import InvalidValueError, OptionError, one_of
from xpcap.layers.cell import Cell, Shapes
from xpcap.layers.cells import CELLS
from xpcap.options import Names, Real, Several, Whole, check_fields, option

RESERVED = (
    "W_proj",
    "b_proj",
    "W_embed",
    "W_vocab",
    "b_vocab",
    "W_image",
    "Wattn",
)  # not the cell's
INJECT = ("init", "every-step", "attention", "attention+every-step")  # how the image enters


def has_every_step(inject: str) -> bool:
    """True if the image is a term of every step, for a name in INJECT."""
    return "every-step" in inject


def has_attention(inject: str) -> bool:
    """True if each step attends to the regions of a grid, for a name in INJECT."""
    return "attention" in inject


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and cell of a captioner. The field names are keys of a run's ``config.json``.

    Parameters
    ----------
    vocabulary : int
        V, number of words, with the special ones.
    feature_shape : tuple of int
        Shape of an image feature, (D,); with attention that of a grid of P regions, (P, D).
    wordvec : int
        W, size of a word vector.
    hidden : int
        H, size of the state.
    cell : str
        A name in xpcap.layers.CELLS.
    dropout : float
        Share of units dropped in training, in [0, 1).
    inject : str
        Entry of the image. ``init`` (init-inject): the image is the initial state, h0 = features @
        W_proj + b_proj. ``every-step`` (with par-inject): h0 @ W_image is also a term of every step's
        pre-activation. ``attention``: A = features @ W_proj + b_proj for each region, h0 = c0 = mean
        of A over the regions, and each step has a term context @ Wattn, with the context of
        layers.dot_product_attention_forward. ``attention+every-step``: both terms.

    Raises
    ------
    OptionError
        A field is not of its kind, or the cell's parameters do not fit.
    ValueError
        The feature is a grid without attention, or a single one with attention.

    Examples
    --------
    >>> config = ModelConfig(vocabulary=1000, feature_shape=(512,), wordvec=128, hidden=256)
    >>> config.shapes()["Wh"]
    (256, 1024)
    """

    vocabulary: int = option(Whole(1))
    feature_shape: tuple[int, ...] = option(Several(Whole(1)))
    wordvec: int = option(Whole(1))
    hidden: int = option(Whole(1))
    _: KW_ONLY
    cell: str = option(Names(CELLS), "lstm")
    dropout: float = option(Real(0, below=1, cause="it is the share of units to drop"), 0.0)
    inject: str = option(Names(INJECT), "init")

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.feature_shape) != 1 + self.attends:
            wanted = "regions and size, (P, D)" if self.attends else "one size, (D,)"
            raise InvalidValueError(
                f"feature_shape is {self.feature_shape}, expected {wanted}, where inject is"
                f" {self.inject!r}"
            )
        self._check_cell()

    def _check_cell(self) -> None:
        if not isinstance(self.recurrent, Cell):
            raise OptionError(
                f"cell {self.cell!r} is {self.recurrent!r:.80}, expected an instance of a subclass"
                f' of Cell; CELLS["{self.cell}"] ='
                f" {getattr(self.recurrent, '__name__', 'MyCell')}()?"
            )
        shapes = self.cell_shapes()
        states = self.recurrent.states
        for name in (*states, *shapes):  # they name arrays in memory, and entries of a spec
            if not name.isidentifier() or states.count(name) > 1:
                raise OptionError(
                    f"cell {self.cell!r} has the name {name!r}, expected identifiers, each of one"
                    " state"
                )
        if reserved := [name for name in RESERVED if name in shapes]:
            raise OptionError(
                f"cell {self.cell!r} has a parameter {reserved[0]!r}, expected another name: the"
                " captioner has that one"
            )
        weight, bias = (shapes.get(name, ()) for name in self.recurrent.inputs)
        if len(bias) != 1 or weight != (self.wordvec, *bias):
            raise OptionError(
                f"cell {self.cell!r} has inputs {self.recurrent.inputs} of shapes {weight} and"
                f" {bias}, expected (W, G) and (G,) with W = {self.wordvec}"
            )

    @property
    def recurrent(self) -> Cell:
        """The Cell that `cell` names. OptionError : it is not in CELLS, or not yet."""
        if self.cell not in CELLS:
            raise OptionError(
                f"cell {self.cell!r} does not exist, expected {one_of(CELLS, self.cell)}"
            )
        return CELLS[self.cell]

    def cell_shapes(self) -> Shapes:
        """Names and shapes of the cell's parameters.

        Returns
        -------
        shapes : dict of str to tuple of int
        """
        return self.recurrent.shapes(self.wordvec, self.hidden)

    @property
    def columns(self) -> int:
        """G, columns of the cell's pre-activations."""
        return self.cell_shapes()[self.recurrent.inputs[1]][0]

    def shapes(self) -> Shapes:
        """Names and shapes of all parameters, in the order of the flat buffer.

        Returns
        -------
        shapes : dict of str to tuple of int
        """
        *_, D = self.feature_shape
        V = self.vocabulary
        W = self.wordvec
        H = self.hidden
        shapes: Shapes = {"W_proj": (D, H), "b_proj": (H,), "W_embed": (V, W)}
        shapes |= self.cell_shapes()
        shapes |= {"W_vocab": (H, V), "b_vocab": (V,)}
        if self.every_step:
            shapes["W_image"] = (H, self.columns)
        if self.attends:
            shapes["Wattn"] = (H, self.columns)
        return shapes

    @property
    def every_step(self) -> bool:
        """True if the image is a term of every step."""
        return has_every_step(self.inject)

    @property
    def attends(self) -> bool:
        """True if each step attends to the regions of a grid."""
        return has_attention(self.inject)

    @property
    def state_arrays(self) -> int:
        """Number of arrays in a state of `CaptioningRNN.start`, with those of the image."""
        return len(self.recurrent.states) + self.every_step + self.attends
