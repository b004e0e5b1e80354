"""Reads the pickles inside public `.pt` files as inert data: nothing they name is ever run.

A pickle is a program for a small stack machine. This is that machine with the few instructions
PyTorch's writer uses (pickle protocol 2), on which a name stays a name: "calling" `torch.Size`
means picking our own stand-in from a fixed table, and objects become records of their attributes.
Python's unpickler is not used: even with a restricted `find_class` it would still hash nested
keys and grow its memo as the file orders.

Source: spec A.8; the instructions are those of the standard library's `pickletools`.
"""

import math
import pickletools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from yolov5_core.limits import MAX_PICKLE_BYTES, MAX_PICKLE_COPIES, MAX_PICKLE_STEPS

_STORAGE_DTYPES = {
    "torch.HalfStorage": "<f2",
    "torch.FloatStorage": "<f4",
    "torch.LongStorage": "<i8",
}
_OUR_STORAGE_DTYPES = {  # BFloat16, which NumPy lacks, by its size
    **_STORAGE_DTYPES,
    **{"torch.DoubleStorage": "<f8", "torch.BFloat16Storage": "<u2", "torch.BoolStorage": "|b1"},
    **{"torch.ByteStorage": "|u1", "torch.CharStorage": "|i1"},
    **{"torch.ShortStorage": "<i2", "torch.IntStorage": "<i4"},
}
_OBJECTS = {  # become InertObject: modules of the public program and of torch, and its options
    *("models.yolo.DetectionModel", "models.yolo.Model", "models.yolo.Detect"),
    *("models.common.Conv", "models.common.C3", "models.common.Bottleneck"),
    *("models.common.SPPF", "models.common.Concat", "models.common.Focus"),
    *("models.common.SPP", "models.common.BottleneckCSP"),
    *("torch.nn.modules.container.Sequential", "torch.nn.modules.container.ModuleList"),
    *("torch.nn.modules.conv.Conv2d", "torch.nn.modules.batchnorm.BatchNorm2d"),
    *("torch.nn.modules.activation.SiLU", "torch.nn.modules.activation.LeakyReLU"),
    *("torch.nn.modules.activation.Hardswish", "torch.nn.modules.pooling.MaxPool2d"),
    *("torch.nn.modules.upsampling.Upsample", "argparse.Namespace"),
}
_CALLED = {  # become the stand-ins of _call
    *("collections.OrderedDict", "__builtin__.set", "builtins.set", "_codecs.encode"),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
    *("torch.nn.parameter.Parameter", "torch.Size", "torch.device", "pathlib.PosixPath"),
    *("numpy.dtype", "numpy.ndarray"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
}
ALLOWED_GLOBALS = frozenset({*_STORAGE_DTYPES, *_OBJECTS, *_CALLED})
_OUR_GLOBALS = frozenset(
    {*_OUR_STORAGE_DTYPES, "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"}
)
_ITEM = 100  # bytes that an entry of a list, set or dict takes, about
_NUMPY_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")


class PickleRefusedError(ValueError):
    """A pickle that is damaged or asks for more than data; the message says what it asked for."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A tensor's memory, by the name of its record in the archive; `dtype` is NumPy's."""

    dtype: str
    key: str
    count: int  # elements


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage, in elements, as the file claims it: not checked yet."""

    storage: Storage
    offset: int
    size: tuple[Any, ...]
    stride: tuple[Any, ...]


@dataclass(slots=True, eq=False)
class InertObject:
    """An object of the file: the name of its class and its attributes."""

    name: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class InertArray:
    """A NumPy array, flat."""

    values: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Name:
    """A global on the stack."""

    name: str


@dataclass(frozen=True, slots=True)
class _NumpyType:
    code: str  # such as f8; only little-endian or one-byte types pass

    def decode(self, raw: bytes, count: int) -> list[Any]:
        dtype = np.dtype(f"<{self.code}")
        if len(raw) != count * dtype.itemsize:
            raise PickleRefusedError(f"{len(raw)} bytes are not {count} NumPy {self.code} numbers")
        return np.frombuffer(raw, dtype).tolist()


def read_inert(data: bytes) -> Any:
    """Returns the value a pickle describes, made of plain values and the inert records above.

    Args:
        data: The whole pickle, protocol 2; memory and time are bounded, see limits.py.

    Returns:
        dict, list, tuple, frozenset of str, str, bytes, int, float, bool, None, StoredTensor,
        InertObject, InertArray; shared and cyclic references stay shared and cyclic.

    Raises:
        PickleRefusedError: A global outside `ALLOWED_GLOBALS`, an instruction PyTorch does not
            write, or damaged data.
    """
    machine = _Machine(ALLOWED_GLOBALS, _STORAGE_DTYPES)
    machine.run(data)
    return machine.pop()


def plain_tensors(data: bytes) -> tuple[list[Storage], list[StoredTensor]]:
    """The storages and tensors of a pickle that holds nothing but plain values and tensors.

    What `torch.load(weights_only=True)` allows is wider: it would hash nested keys, and believe a
    tensor's claims about its size. A pickle that passes here cannot ask it for either.

    Raises:
        PickleRefusedError: It asks for more, or is damaged.
    """
    machine = _Machine(_OUR_GLOBALS, _OUR_STORAGE_DTYPES)
    machine.run(data)
    machine.pop()
    return machine.storages, machine.tensors


class _Machine:
    """The stack machine; a method an instruction."""

    def __init__(self, allowed: Collection[str], dtypes: Mapping[str, str]) -> None:
        self.allowed, self.dtypes = allowed, dtypes
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.storages: list[Storage] = []
        self.tensors: list[StoredTensor] = []
        self.copied = 0

    def run(self, data: bytes) -> None:
        if len(data) > MAX_PICKLE_BYTES:
            raise PickleRefusedError(f"{len(data)} bytes, over the limit of {MAX_PICKLE_BYTES}")
        try:
            for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                self.step(opcode.name, argument, number)
        except PickleRefusedError:
            raise
        except ValueError as error:  # genops: cut off or not a pickle
            raise PickleRefusedError(f"not a complete pickle: {error}") from error

    def step(self, instruction: str, argument: Any, number: int) -> None:
        if number == MAX_PICKLE_STEPS:
            raise PickleRefusedError(f"more than {MAX_PICKLE_STEPS} instructions")
        if instruction not in _STEPS:
            raise PickleRefusedError(f"instruction {instruction} is not one PyTorch writes")
        _STEPS[instruction](self, argument)

    def require_room(self, size: int) -> None:
        """Counts bytes that an instruction makes of what exists: a loop of such is a bomb."""
        self.copied += size
        if self.copied > MAX_PICKLE_COPIES:
            raise PickleRefusedError(f"it copies its own parts to {self.copied} bytes and more")

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleRefusedError("an instruction finds nothing to work on")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleRefusedError("an instruction finds no mark")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def put(self, index: int) -> None:
        if index != len(self.memo):  # so a file cannot order a memo of any size
            raise PickleRefusedError(f"memo entry {index} is out of order")
        self.memo.append(self.top())

    def get(self, index: int) -> None:
        if not index < len(self.memo):
            raise PickleRefusedError(f"memo entry {index} does not exist")
        self.push(self.memo[index])

    def protocol(self, version: int) -> None:
        if version != 2:
            raise PickleRefusedError(f"pickle protocol {version}; PyTorch writes 2")

    def global_name(self, pair: str) -> None:
        name = pair.replace(" ", ".", 1)
        if name not in self.allowed:
            raise PickleRefusedError(f"global {name[:200]!r} is not one a YOLOv5 checkpoint needs")
        self.push(_Name(name))

    def tuple_of(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def tuple_to_mark(self, _: Any) -> None:
        self.push(tuple(self.pop_to_mark()))

    def append(self, values: Iterable[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise PickleRefusedError(f"cannot append to {type(target).__name__}")
        target.extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(pairs) % 2:
            raise PickleRefusedError(f"cannot set items of {type(target).__name__}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int | float | None):  # their hash costs nothing
                raise PickleRefusedError(f"a dict key of type {type(key).__name__}")
            target[key] = value

    def new_object(self, _: Any) -> None:
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, _Name) or name.name not in _OBJECTS or arguments != ():
            raise PickleRefusedError(f"cannot make an object of {type(name).__name__}")
        self.push(InertObject(name.name))

    def build(self, _: Any) -> None:
        state, target = self.pop(), self.top()
        match target, state:
            case InertObject(), dict() if all(isinstance(key, str) for key in state):
                self.require_room(len(state) * _ITEM)
                target.attributes.update(state)
            case dict(), {"_metadata": dict()} if len(state) == 1:  # versions of a state_dict
                pass
            case InertArray(), (_, tuple(shape), _NumpyType() as numpy_type, _, bytes(raw)):
                if not are_counts(shape):
                    raise PickleRefusedError("a NumPy array whose shape is not whole numbers")
                self.require_room(len(raw) * _ITEM)
                target.values = numpy_type.decode(raw, math.prod(shape))
            case _NumpyType(), (3, "<" | "|", None, None, None, -1, -1, 0):
                pass
            case _:
                raise PickleRefusedError(f"cannot set the state of {type(target).__name__}")

    def call(self, _: Any) -> None:
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, _Name) or type(arguments) is not tuple:
            raise PickleRefusedError(f"cannot call {type(name).__name__}")
        items = sum(len(each) for each in arguments if isinstance(each, list | tuple))
        texts = sum(len(each) for each in arguments if isinstance(each, str | bytes))
        self.require_room(items * _ITEM + texts)
        call = {"torch": _call_torch, "numpy": _call_numpy}.get(
            name.name.split(".")[0], _call_plain
        )
        made = call(name.name, arguments)
        if isinstance(made, StoredTensor):
            self.tensors.append(made)
        self.push(made)

    def persistent(self, _: Any) -> None:
        match self.pop():
            case ("storage", _Name(name), str(key), str(), int(count)) if (
                name in self.dtypes and count >= 0
            ):
                self.storages.append(Storage(self.dtypes[name], key, count))
                self.push(self.storages[-1])
            case _:
                raise PickleRefusedError("a persistent entry that is not a tensor storage")


def are_counts(values: tuple[Any, ...]) -> bool:
    """True for the size or stride of an array: a few whole numbers, none negative."""
    return len(values) <= 8 and all(type(value) is int and value >= 0 for value in values)


def _call_torch(name: str, arguments: tuple[Any, ...]) -> Any:
    match name, arguments:
        case (
            "torch._utils._rebuild_tensor_v2",
            (Storage() as storage, int(offset), tuple(size), tuple(stride), bool(), *_),
        ):
            return StoredTensor(storage, offset, size, stride)
        case (
            "torch._utils._rebuild_parameter" | "torch.nn.parameter.Parameter",
            (StoredTensor() as tensor, *_),
        ):
            return tensor
        case "torch.Size", (tuple(size),):
            return size
        case "torch.device", (str(), *_):
            return InertObject(name)
    raise PickleRefusedError(f"cannot call {name} with these arguments")


def _call_numpy(name: str, arguments: tuple[Any, ...]) -> Any:
    match name.rpartition(".")[2], arguments:
        case "dtype", (str(code), *_) if code in _NUMPY_CODES:
            return _NumpyType(code)
        case "_reconstruct", (_Name("numpy.ndarray"), *_):
            return InertArray()
        case "scalar", (_NumpyType() as numpy_type, bytes(raw)):
            return numpy_type.decode(raw, 1)[0]
    raise PickleRefusedError(f"cannot call {name} with these arguments")


def _call_plain(name: str, arguments: tuple[Any, ...]) -> Any:
    match name.rpartition(".")[2], arguments:
        case "OrderedDict", ():
            return {}
        case "set", (list(items),) if all(isinstance(item, str) for item in items):
            return frozenset(items)
        case "PosixPath", parts if all(isinstance(part, str) for part in parts):
            return str(PurePosixPath(*parts))
        case "encode", (str(text), "latin1") if all(letter <= "\xff" for letter in text):
            return text.encode("latin1")
    raise PickleRefusedError(f"cannot call {name} with these arguments")


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.protocol,
    "STOP": lambda _machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    "BINUNICODE": _Machine.push,
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_to_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": _Machine.global_name,
    "NEWOBJ": _Machine.new_object,
    "BUILD": _Machine.build,
    "REDUCE": _Machine.call,
    "BINPERSID": _Machine.persistent,
}
