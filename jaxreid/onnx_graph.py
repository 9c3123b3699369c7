"""From a traced JAX function to an ONNX graph, for any batch.

It knows the primitives that the networks here are made of, and names the one that it does not know.
Shapes keep their symbols. Scans of a known length are unrolled: a clip has few frames, and a graph
without loops is one that every runtime takes. What hangs on constants alone is computed here.

A value that was broadcast stays as small as it was, since ONNX broadcasts by itself: its shape has
a 1 where the traced one has more.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import numpy as np
import onnx
from jax.extend.core import ClosedJaxpr, Literal
from onnx import helper, numpy_helper

from jaxreid.errors import UserError

OPSET = 17
_END = np.iinfo(np.int64).max
_UNARY = {
    "abs": "Abs",
    "ceil": "Ceil",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logistic": "Sigmoid",
    "neg": "Neg",
    "not": "Not",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
_BINARY = {
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "div": "Div",
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "or": "Or",
    "pow": "Pow",
    "sub": "Sub",
}
# Functions that JAX calls by themselves, by the parameter that holds their body.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
}
_SAME = ("copy", "copy_p", "optimization_barrier", "stop_gradient")


class Value(NamedTuple):
    """A constant, or what a node gives.

    Attributes:
        of: the array, or the name.
        shape: its own, which may have a 1 where the traced shape has more.
    """

    of: np.ndarray | str
    shape: tuple[Any, ...]


class _Size:
    """A size that is known when the graph runs, with the arithmetic of JAX's symbolic sizes."""

    def __init__(self, graph: "Graph", name: str) -> None:
        self.graph, self.name = graph, name

    def _with(self, op: str, other: "_Size | int", turned: bool = False) -> "_Size":
        pair = [self.name, other.name if isinstance(other, _Size) else self.graph.ints([other])]
        return _Size(self.graph, self.graph.emit(op, pair[::-1] if turned else pair))

    def __add__(self, other: "_Size | int") -> "_Size":
        return self._with("Add", other)

    def __sub__(self, other: "_Size | int") -> "_Size":
        return self._with("Sub", other)

    def __rsub__(self, other: int) -> "_Size":
        return self._with("Sub", other, turned=True)

    def __mul__(self, other: "_Size | int") -> "_Size":
        return self._with("Mul", other)

    def __neg__(self) -> "_Size":
        return self * -1

    def __floordiv__(self, other: "_Size | int") -> "_Size":
        return self._with("Div", other)  # Sizes are not negative, so that both round alike.

    __radd__, __rmul__ = __add__, __mul__


class Graph:
    """A graph that grows.

    Attributes:
        nodes: in the order in which they run.
        initialisers: its constants, by name.
    """

    def __init__(self) -> None:
        """An empty graph."""
        self.nodes: list[Any] = []
        self.initialisers: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._sizes: dict[str, _Size] = {}

    def emit(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node. Returns the name of its output, or the names of several."""
        names = [f"v{len(self.nodes)}" + (f"_{k}" if k else "") for k in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names if outputs > 1 else names[0]

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant; equal ones are kept once."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = name = f"c{len(self.initialisers)}"
            self.initialisers[name] = numpy_helper.from_array(array, name)
        return self._names[key]

    def ints(self, numbers: Iterable[Any]) -> str:
        """A constant vector of integers."""
        return self.constant(np.array([int(n) for n in numbers], np.int64))

    def name(self, value: Value) -> str:
        """The name of a value."""
        return value.of if isinstance(value.of, str) else self.constant(value.of)

    def read_sizes(self, name: str, shape: Sequence[Any]) -> None:
        """Learns what the symbols are that stand alone in the shape of an input."""
        for axis, size in enumerate(shape):
            if not isinstance(size, int) and str(size) not in self._sizes:
                found = self.emit("Shape", [name], start=axis, end=axis + 1)
                self._sizes[str(size)] = _Size(self, found)

    def size(self, size: Any) -> str:
        """A vector of one number: a size, which may be an expression such as `6*b`."""
        if isinstance(size, int | np.integer):
            return self.ints([int(size)])
        text = str(size)
        if text not in self._sizes:
            # JAX prints its expressions in the form in which it reads them.
            words = {"floordiv": lambda a, b: a // b, **self._sizes}
            words = {word: of for word, of in words.items() if word.isidentifier()}
            unknown = set(re.findall(r"[a-z_]\w*", text)) - set(words)
            if unknown:
                raise UserError(f"ONNX: a size {text} has no form here ({sorted(unknown)[0]})")
            self._sizes[text] = eval(text.replace("^", "**"), {"__builtins__": {}}, words)
        return self._sizes[text].name

    def sizes(self, shape: Sequence[Any]) -> str:
        """A shape, as a vector."""
        if all(isinstance(size, int) for size in shape):
            return self.ints(shape)
        return self.emit("Concat", [self.size(size) for size in shape], axis=0)

    def full(self, value: Value, shape: Sequence[Any]) -> str:
        """The name of a value in all its size."""
        if tuple(value.shape) == tuple(shape):
            return self.name(value)
        return self.emit("Expand", [self.name(value), self.sizes(shape)])

    def reshape(self, name: str, shape: Sequence[Any]) -> str:
        """One size that is not known before may stand for itself."""
        known = [int(size) if isinstance(size, int | np.integer) else -1 for size in shape]
        wanted = self.ints(known) if known.count(-1) <= 1 and 0 not in known else self.sizes(shape)
        return self.emit("Reshape", [name, wanted])

    def transpose(self, name: str, order: Sequence[Any]) -> str:
        """In another order of its axes."""
        if list(order) == sorted(order):
            return name
        return self.emit("Transpose", [name], perm=[int(axis) for axis in order])

    def cast(self, name: str, dtype: Any) -> str:
        """In another type."""
        return self.emit("Cast", [name], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def call(self, closed: ClosedJaxpr, values: Sequence[Value]) -> list[Value]:
        """Adds all of a traced function. Returns what it gives.

        Raises:
            UserError: it has a primitive that is not known here.
        """
        jaxpr = closed.jaxpr
        known: dict[Any, Value] = dict(zip(jaxpr.invars, values))
        known |= {var: _constant(array) for var, array in zip(jaxpr.constvars, closed.consts)}

        def read(atom: Any) -> Value:
            if isinstance(atom, Literal):
                of: Any = atom.aval
                return _constant(np.asarray(atom.val, of.dtype))
            return known[atom]

        for eqn in jaxpr.eqns:
            given = [read(atom) for atom in eqn.invars]
            known |= dict(zip(eqn.outvars, self._apply(eqn, given)))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, eqn: Any, given: list[Value]) -> list[Value]:
        kind = eqn.primitive.name
        if kind in _SAME:
            return given
        if kind in _CALLS:
            body = eqn.params[_CALLS[kind]]
            body = body if hasattr(body, "consts") else ClosedJaxpr(body, ())
            return self.call(body, given)
        if kind == "scan":
            return _scan(self, eqn, given)
        if kind == "broadcast_in_dim":
            return [_broadcast(self, eqn, given[0])]
        shapes = [tuple(var.aval.shape) for var in eqn.outvars]
        if all(isinstance(value.of, np.ndarray) for value in given) and _is_known(eqn, shapes):
            return _compute(eqn, given)
        if kind in _UNARY or kind in _BINARY or kind in _POINTWISE:
            own = [value.shape for value in given if value.shape]
            shape = tuple(
                1 if all(s[axis] == 1 for s in own) else size for axis, size in enumerate(shapes[0])
            )
            names = [self.name(value) for value in given]
            op = _UNARY.get(kind) or _BINARY.get(kind)
            made = self.emit(op, names) if op else _POINTWISE[kind](self, eqn, *names)
            return [Value(made, shape)]
        if kind not in _OTHERS:
            raise UserError(
                f"ONNX: the network has JAX's operation {kind!r}, which has no form in"
                " jaxreid.onnx_graph"
            )
        names = [self.full(v, atom.aval.shape) for v, atom in zip(given, eqn.invars)]
        made = _OTHERS[kind](self, eqn, *names)
        return [Value(*of) for of in zip([made] if isinstance(made, str) else made, shapes)]


def to_model(
    function: Callable[..., Any],
    inputs: dict[str, jax.ShapeDtypeStruct],
    outputs: Sequence[str],
    metadata: dict[str, str],
    floats: Sequence[str] = (),
) -> Any:
    """A function as an ONNX model of one file.

    Args:
        function: of the arrays `inputs`, in their order, to as many as there are `outputs`.
        inputs: by name. Sizes may be symbols; each stands alone in some shape. The model does not
            take what the function does not read.
        outputs: their names.
        metadata: what the file says of itself.
        floats: inputs that the model takes as float32, whatever the function is traced with.

    Raises:
        UserError: the function has an operation that is not known here.
    """
    closed = jax.make_jaxpr(function)(*inputs.values())
    graph = Graph()
    takes = []
    for name, array in inputs.items():
        dtype = np.float32 if name in floats else array.dtype
        takes.append(_info(name, dtype, array.shape))
        graph.read_sizes(name, array.shape)
    values = graph.call(closed, [Value(name, array.shape) for name, array in inputs.items()])
    gives = []
    for name, value, aval in zip(outputs, values, closed.out_avals, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.full(value, aval.shape)], [name]))
        gives.append(_info(name, aval.dtype, aval.shape))
    nodes, used = [], set(outputs)
    for node in reversed(graph.nodes):
        if used.intersection(node.output):
            nodes.append(node)
            used.update(node.input)
    takes = [each for each in takes if each.name in used]
    constants = [array for name, array in graph.initialisers.items() if name in used]
    model = helper.make_model(
        helper.make_graph(nodes[::-1], "jaxreid", takes, gives, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="jaxreid",
        ir_version=8,
    )
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


def _info(name: str, dtype: Any, shape: Sequence[Any]) -> Any:
    sizes = [size if isinstance(size, int) else str(size) for size in shape]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, sizes)


def _constant(array: Any) -> Value:
    array = np.asarray(array)
    return Value(array, array.shape)


def _is_known(eqn: Any, shapes: Sequence[tuple[Any, ...]]) -> bool:
    """Whether nothing of an operation waits for the size of a batch."""
    sizes = [size for shape in shapes for size in shape]
    sizes += [size for atom in eqn.invars for size in atom.aval.shape]
    return eqn.primitive.name != "dim_as_value" and all(isinstance(size, int) for size in sizes)


def _compute(eqn: Any, given: Sequence[Value]) -> list[Value]:
    arrays = [
        jax.numpy.asarray(np.broadcast_to(value.of, atom.aval.shape))
        for value, atom in zip(given, eqn.invars)
    ]
    made = eqn.primitive.bind(*arrays, **eqn.params)
    return [_constant(of) for of in (made if eqn.primitive.multiple_results else [made])]


def _broadcast(graph: Graph, eqn: Any, value: Value) -> Value:
    """A view: axes of size 1 in between."""
    places, target = eqn.params["broadcast_dimensions"], eqn.params["shape"]
    shape = [1] * len(target)
    for axis, place in enumerate(places):
        shape[place] = value.shape[axis]
    if isinstance(value.of, np.ndarray):
        return Value(value.of.reshape(shape), tuple(shape))
    added = [axis for axis in range(len(target)) if axis not in places]
    if not added:
        return Value(value.of, tuple(shape))
    return Value(graph.emit("Unsqueeze", [value.of, graph.ints(added)]), tuple(shape))


def _scan(graph: Graph, eqn: Any, given: list[Value]) -> list[Value]:
    params = eqn.params
    length, first = params["length"], params["num_consts"]
    if not isinstance(length, int):
        raise UserError(f"ONNX: the network has a loop of {length} steps, a number that is open")
    second = first + params["num_carry"]
    constants, carry, over = given[:first], given[first:second], given[second:]
    shapes = [atom.aval.shape for atom in eqn.invars[second:]]
    collected: list[list[Value]] = []
    for step in reversed(range(length)) if params["reverse"] else range(length):
        parts = [_at(graph, value, step, shape) for value, shape in zip(over, shapes)]
        made = graph.call(params["jaxpr"], [*constants, *carry, *parts])
        carry = made[: len(carry)]
        collected.append(made[len(carry) :])
    if params["reverse"]:
        collected.reverse()
    stacked = []
    for values, var in zip(zip(*collected), eqn.outvars[len(carry) :]):
        names = [graph.full(value, var.aval.shape[1:]) for value in values]
        stacked.append(Value(_stack(graph, names, 0), var.aval.shape))
    return [*carry, *stacked]


def _at(graph: Graph, value: Value, step: int, shape: Sequence[Any]) -> Value:
    """What a scan reads in one of its steps."""
    step = 0 if value.shape[0] == 1 else step
    if isinstance(value.of, np.ndarray):
        return _constant(value.of[step])
    index = graph.constant(np.array(step, np.int64))
    return Value(graph.emit("Gather", [value.of, index], axis=0), tuple(value.shape[1:]))


def _stack(graph: Graph, names: Sequence[str], axis: int) -> str:
    rows = [graph.emit("Unsqueeze", [name, graph.ints([axis])]) for name in names]
    return graph.emit("Concat", rows, axis=axis)


def _select(graph: Graph, eqn: Any, which: str, *cases: str) -> str:
    del eqn
    if len(cases) != 2:
        raise UserError(f"ONNX: a choice among {len(cases)} arrays has no form here; expected 2")
    return graph.emit("Where", [which, cases[1], cases[0]])


def _power(graph: Graph, eqn: Any, x: str) -> str:
    exponent = np.array(eqn.params["y"], eqn.invars[0].aval.dtype)
    return graph.emit("Pow", [x, graph.constant(exponent)])


_POINTWISE: dict[str, Callable[..., str]] = {
    "clamp": lambda g, _, low, x, high: g.emit("Min", [g.emit("Max", [x, low]), high]),
    "convert_element_type": lambda g, eqn, x: g.cast(x, eqn.params["new_dtype"]),
    "integer_pow": _power,
    "ne": lambda g, _, x, y: g.emit("Not", [g.emit("Equal", [x, y])]),
    "rsqrt": lambda g, _, x: g.emit("Reciprocal", [g.emit("Sqrt", [x])]),
    "select_n": _select,
    "square": lambda g, _, x: g.emit("Mul", [x, x]),
}


def _convolution(graph: Graph, eqn: Any, x: str, kernel: str) -> str:
    p = eqn.params
    if p["batch_group_count"] != 1 or set(p["lhs_dilation"]) != {1}:
        raise UserError("ONNX: a transposed convolution has no form in jaxreid.onnx_graph")
    numbers = p["dimension_numbers"]
    made = graph.emit(
        "Conv",
        [graph.transpose(x, numbers.lhs_spec), _turned(graph, kernel, numbers.rhs_spec)],
        strides=p["window_strides"],
        pads=_pads(p["padding"]),
        dilations=p["rhs_dilation"],
        group=p["feature_group_count"],
    )
    return graph.transpose(made, np.argsort(numbers.out_spec).tolist())


def _turned(graph: Graph, name: str, order: Sequence[Any]) -> str:
    """A transposition, of a constant here and now."""
    if name in graph.initialisers:
        return graph.constant(numpy_helper.to_array(graph.initialisers[name]).transpose(order))
    return graph.transpose(name, order)


def _pads(padding: Sequence[Any]) -> list[int]:
    return [int(low) for low, _ in padding] + [int(high) for _, high in padding]


def _product(graph: Graph, eqn: Any, a: str, b: str) -> str:
    (over_a, over_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
    shape_a, shape_b = (atom.aval.shape for atom in eqn.invars)
    free_a, free_b = (
        [axis for axis in range(len(shape)) if axis not in (*over, *batch)]
        for shape, over, batch in ((shape_a, over_a, batch_a), (shape_b, over_b, batch_b))
    )
    a = _turned(graph, a, [*batch_a, *free_a, *over_a])
    b = _turned(graph, b, [*batch_b, *over_b, *free_b])
    if len(over_a) == 1 and len(free_b) == 1 and not batch_a and free_a:
        return graph.emit("MatMul", [a, b])

    def merged(name: str, shape: Sequence[Any], axes: Sequence[Sequence[Any]]) -> str:
        if all(len(some) == 1 for some in axes):
            return name
        sizes = [reduce(lambda x, y: x * y, (shape[k] for k in some), 1) for some in axes]
        return graph.reshape(name, sizes)

    lines = [[axis] for axis in batch_a], [[axis] for axis in batch_b]
    a = merged(a, shape_a, [*lines[0], free_a, list(over_a)])
    b = merged(b, shape_b, [*lines[1], list(over_b), free_b])
    made = graph.emit("MatMul", [a, b])
    if len(free_a) == len(free_b) == 1:
        return made
    return graph.reshape(made, eqn.outvars[0].aval.shape)


def _pooling(op: str) -> Callable[[Graph, Any, str], str]:
    def pool(graph: Graph, eqn: Any, x: str) -> str:
        p = eqn.params
        window, strides, padding = p["window_dimensions"], p["window_strides"], p["padding"]
        rank = len(window)
        moved = [
            axis
            for axis in range(rank)
            if window[axis] != 1 or strides[axis] != 1 or tuple(padding[axis]) != (0, 0)
        ]
        still = [axis for axis in range(rank) if axis not in moved]
        while len(moved) < 2:
            moved.insert(0, still.pop())
        if rank != 4 or len(moved) != 2 or {*p["base_dilation"], *p["window_dilation"]} != {1}:
            raise UserError(f"ONNX: a pooling by {window} has no form in jaxreid.onnx_graph")
        order = [*still, *moved]
        options = {"count_include_pad": 1} if op == "AveragePool" else {}
        kernel = [window[axis] for axis in moved]
        made = graph.emit(
            op,
            [graph.transpose(x, order)],
            kernel_shape=kernel,
            strides=[strides[axis] for axis in moved],
            pads=_pads([padding[axis] for axis in moved]),
            **options,
        )
        if op == "AveragePool":  # JAX sums.
            made = graph.emit(
                "Mul", [made, graph.constant(np.array(math.prod(kernel), np.float32))]
            )
        return graph.transpose(made, np.argsort(order).tolist())

    return pool


def _reduction(op: str) -> Callable[[Graph, Any, str], str]:
    def over(graph: Graph, eqn: Any, x: str) -> str:
        axes = [int(axis) for axis in eqn.params["axes"]]
        if op == "ReduceSum":
            return graph.emit(op, [x, graph.ints(axes)], keepdims=0)
        return graph.emit(op, [x], axes=axes, keepdims=0)

    return over


def _logical(op: str) -> Callable[[Graph, Any, str], str]:
    def over(graph: Graph, eqn: Any, x: str) -> str:
        return graph.cast(_reduction(op)(graph, eqn, graph.cast(x, np.int32)), bool)

    return over


def _slice(graph: Graph, eqn: Any, x: str) -> str:
    p, shape = eqn.params, eqn.invars[0].aval.shape
    ends = [_END if end == size else end for end, size in zip(p["limit_indices"], shape)]
    steps = p["strides"] or [1] * len(shape)
    numbers = [p["start_indices"], ends, range(len(shape)), steps]
    return graph.emit("Slice", [x, *(graph.ints(some) for some in numbers)])


def _reverse(graph: Graph, eqn: Any, x: str) -> str:
    axes = eqn.params["dimensions"]
    numbers = [[-1] * len(axes), [-_END] * len(axes), axes, [-1] * len(axes)]
    return graph.emit("Slice", [x, *(graph.ints(some) for some in numbers)])


def _window(
    graph: Graph, x: str, shape: Sequence[Any], starts: dict[Any, str], sizes: Sequence[Any]
) -> str:
    """A part of x: along each axis of `starts`, from there as many as `sizes` says."""
    axes = [axis for axis in starts if shape[axis] != sizes[axis]]
    if not axes:
        return x
    start = graph.emit("Concat", [starts[axis] for axis in axes], axis=0)
    # As JAX has it, a part that would reach over the end is moved back.
    most = graph.sizes([shape[axis] - sizes[axis] for axis in axes])
    zeros = graph.ints([0] * len(axes))
    start = graph.emit("Min", [graph.emit("Max", [start, zeros]), most])
    end = graph.emit("Add", [start, graph.sizes([sizes[axis] for axis in axes])])
    return graph.emit("Slice", [x, start, end, graph.ints(axes)])


def _dynamic_slice(graph: Graph, eqn: Any, x: str, *starts: str) -> str:
    vectors = {
        axis: graph.emit("Reshape", [graph.cast(start, np.int64), graph.ints([1])])
        for axis, start in enumerate(starts)
    }
    return _window(graph, x, eqn.invars[0].aval.shape, vectors, eqn.params["slice_sizes"])


def _gather(graph: Graph, eqn: Any, x: str, indices: str) -> str:
    p = eqn.params
    numbers, sizes = p["dimension_numbers"], p["slice_sizes"]
    shape, places = (atom.aval.shape for atom in eqn.invars)
    axes, collapsed = numbers.start_index_map, numbers.collapsed_slice_dims
    indices = graph.cast(indices, np.int64)
    if len(places) == 1 and not numbers.operand_batching_dims:  # One part.
        starts = {
            axis: graph.emit("Slice", [indices, *(graph.ints([n]) for n in (k, k + 1, 0))])
            for k, axis in enumerate(axes)
        }
        x = _window(graph, x, shape, starts, sizes)
        return graph.emit("Squeeze", [x, graph.ints(collapsed)]) if collapsed else x
    rows = [k for k in range(len(eqn.outvars[0].aval.shape)) if k not in numbers.offset_dims]
    whole = all(
        size is of or size == of or k in axes for k, (size, of) in enumerate(zip(sizes, shape))
    )
    if len(places) == 2 and tuple(axes) == tuple(collapsed) and len(axes) == 1 and whole:
        flat = graph.emit("Squeeze", [indices, graph.ints([1])])
        made = graph.emit("Gather", [x, flat], axis=int(axes[0]))
        order = [k for k in range(len(shape)) if k != axes[0]]
        order.insert(rows[0], axes[0])
        return graph.transpose(made, order)
    raise UserError("ONNX: an indexing by several arrays has no form in jaxreid.onnx_graph")


def _pad(graph: Graph, eqn: Any, x: str, fill: str) -> str:
    config = eqn.params["padding_config"]
    if any(inner for *_, inner in config):
        raise UserError("ONNX: padding between values has no form in jaxreid.onnx_graph")
    pads = [low for low, _, _ in config] + [high for _, high, _ in config]
    return graph.emit("Pad", [x, graph.sizes([_int(n) for n in pads]), fill])


def _int(size: Any) -> Any:
    return int(size) if isinstance(size, np.integer) else size


def _split(graph: Graph, eqn: Any, x: str) -> Any:
    sizes = eqn.params["sizes"]
    return graph.emit("Split", [x, graph.ints(sizes)], len(sizes), axis=int(eqn.params["axis"]))


def _unstack(graph: Graph, eqn: Any, x: str) -> Any:
    axis = int(eqn.params["axis"])
    return [
        graph.emit("Gather", [x, graph.constant(np.array(k, np.int64))], axis=axis)
        for k in range(len(eqn.outvars))
    ]


def _dimension(graph: Graph, eqn: Any) -> str:
    number = graph.emit("Squeeze", [graph.size(eqn.params["dim"])])
    return graph.cast(number, eqn.outvars[0].aval.dtype)


_OTHERS: dict[str, Callable[..., Any]] = {
    "concatenate": lambda g, eqn, *xs: g.emit("Concat", xs, axis=int(eqn.params["dimension"])),
    "conv_general_dilated": _convolution,
    "dim_as_value": _dimension,
    "dot_general": _product,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "pad": _pad,
    "reduce_and": _logical("ReduceMin"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_or": _logical("ReduceMax"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_window_max": _pooling("MaxPool"),
    "reduce_window_sum": _pooling("AveragePool"),
    "reshape": lambda g, eqn, x: g.reshape(x, eqn.outvars[0].aval.shape),
    "rev": _reverse,
    "slice": _slice,
    "split": _split,
    "squeeze": lambda g, eqn, x: g.emit("Squeeze", [x, g.ints(eqn.params["dimensions"])]),
    "stack": lambda g, eqn, *xs: _stack(g, xs, int(eqn.params["axis"])),
    "transpose": lambda g, eqn, x: _turned(g, x, eqn.params["permutation"]),
    "unstack": _unstack,
}
