"""Reads what a pickle says without doing what it says.

A pickle is a program for a small stack machine that may import and call anything. Here the machine knows data only:
numbers, strings, containers. A name it would import becomes a :class:`Name`, and whatever is made by calling, or filled
by, such a name becomes an inert :class:`Stub`. Nothing is imported, called, or given an attribute, so there is nothing
for a hostile file to reach. The standard library's ``pickletools`` splits the file into operations.

Tensors are recognised by the names of PyTorch's rebuild functions and stay descriptions (:class:`StoredTensor`).
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from mmap import mmap
from typing import IO, Any, cast

Readable = BytesIO | mmap
Plain = str | bytes | int | float | bool | None


@dataclass(frozen=True)
class Name:
    """A global that the pickle would import; compared by its text only."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Stub:
    """What stands in for every object that is not plain data.

    Attributes:
        kind: What the pickle would have called.
        state: The plain attributes the pickle gave it (an ``argparse.Namespace`` is readable this way).
    """

    kind: str
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """A block of numbers that lies elsewhere in the file.

    Attributes:
        kind: PyTorch's storage class, ``FloatStorage`` and so on.
        key: Name of the block in the file.
        numel: Numbers in the block.
        start: First number of this view of the block (old files only).
    """

    kind: str
    key: str
    numel: int
    start: int = 0


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a view of a storage; sizes as the file declares them, not yet checked.

    Attributes:
        storage: Where the numbers lie.
        offset: First number.
        shape: Size of each axis.
        stride: Step of each axis, in numbers.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Pickled:
    """What a pickle describes.

    Attributes:
        content: Plain data, dictionaries, lists, tuples, :class:`Name`, :class:`Stub`, :class:`StoredTensor`.
        storages: Every storage it names, by key.
    """

    content: object
    storages: dict[str, Storage]


class PickleError(ValueError):
    """The bytes are not a pickle that can be followed; the message says why."""


class _Mark:
    """Stands on the stack where an operation's operands begin."""


_MARK = _Mark()
_CONSTANTS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
    | {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
)
_LITERALS: dict[str, Plain] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TENSORS = frozenset({"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"})
_PARAMETERS = frozenset({"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"})
_SUBCLASS = "torch._tensor._rebuild_from_type_v2"
_DICTIONARIES = frozenset({"collections.OrderedDict", "builtins.dict", "collections.defaultdict"})


def _integers(value: object) -> tuple[int, ...] | None:
    if isinstance(value, tuple) and all(type(item) is int for item in value):
        return value
    return None


def _rebuilt(name: str, arguments: tuple[Any, ...]) -> object:
    """Return what a call stands for: a tensor, a dictionary, or a stub."""
    first = arguments[0] if arguments else None
    if name in _TENSORS and len(arguments) >= 4:
        offset, shape, stride = arguments[1], _integers(arguments[2]), _integers(arguments[3])
        if isinstance(first, Storage) and type(offset) is int and shape is not None and stride is not None:
            return StoredTensor(first, offset, shape, stride)
    if name in _PARAMETERS and isinstance(first, StoredTensor):
        return first
    # A tensor subclass is rebuilt by an inner call, and its own class and state are left aside.
    if name == _SUBCLASS and isinstance(first, Name) and len(arguments) >= 3 and str(first) != _SUBCLASS:
        inner = arguments[2]
        return _rebuilt(str(first), inner if isinstance(inner, tuple) else ())
    if name in _DICTIONARIES:
        pairs = first if isinstance(first, list) else []
        return _dictionary(
            [item for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2 for item in pair]
        )
    return Stub(name)


def _dictionary(flat: list[Any]) -> dict[Any, Any]:
    """Pair keys and values; keys that are not plain data are dropped."""
    return {
        key: value
        for key, value in zip(flat[::2], flat[1::2], strict=True)
        if isinstance(key, str | bytes | int | float | None)
    }


def _text(value: object) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _persistent(saved: object) -> object:
    """Return the storage that a persistent id names; anything else is a stub.

    PyTorch writes ``("storage", class, key, device, numel)``, older versions with a view
    ``(key, offset, numel)`` or None at the end.
    """
    if not isinstance(saved, tuple) or len(saved) < 5 or _text(saved[0]) != "storage":
        return Stub("persistent object")
    kind, key, numel = saved[1], saved[2], saved[4]
    view = saved[5] if len(saved) > 5 else None
    start = 0
    if isinstance(view, tuple) and len(view) == 3 and type(view[1]) is int and type(view[2]) is int:
        start, numel = view[1], view[2]
    if not isinstance(kind, Name) or not isinstance(key, str | bytes | int) or type(numel) is not int:
        return Stub("storage")
    return Storage(kind.name, _text(key), numel, start)


class _Machine:
    """The stack, the memo, and one method per family of operations."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.operations: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self.stack.append(_MARK),
            "POP": lambda _: self._pop(),
            "POP_MARK": lambda _: self._discard_to_mark(),
            "DUP": lambda _: self.stack.append(self.stack[-1]),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_TUPLE": lambda _: self.stack.append(()),
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "EMPTY_SET": lambda _: self.stack.append(Stub("set")),
            "LIST": lambda _: self.stack.append(self._to_mark()),
            "TUPLE": lambda _: self.stack.append(tuple(self._to_mark())),
            "TUPLE1": lambda _: self.stack.append(tuple(self._take(1))),
            "TUPLE2": lambda _: self.stack.append(tuple(self._take(2))),
            "TUPLE3": lambda _: self.stack.append(tuple(self._take(3))),
            "DICT": lambda _: self.stack.append(_dictionary(self._to_mark())),
            "FROZENSET": lambda _: self._call("frozenset", self._to_mark()),
            "APPEND": lambda _: self._extend(self._take(1)),
            "APPENDS": lambda _: self._extend(self._to_mark()),
            "ADDITEMS": lambda _: self._discard_to_mark(),
            "SETITEM": lambda _: self._update(self._take(2)),
            "SETITEMS": lambda _: self._update(self._to_mark()),
            "MEMOIZE": lambda _: self._remember(len(self.memo)),
            "GLOBAL": lambda text: self.stack.append(Name(*(text.split(" ", 1)))),
            "STACK_GLOBAL": lambda _: self.stack.append(Name(*map(_text, self._take(2)))),
            "REDUCE": lambda _: self._call(*self._take(2)),
            "NEWOBJ": lambda _: self._call(*self._take(2)),
            "NEWOBJ_EX": lambda _: self._call(*self._take(3)[:2]),
            "INST": lambda text: self._call(Name(*text.split(" ", 1)), tuple(self._to_mark())),
            "OBJ": lambda _: self._call(self._to_mark()[0], ()),
            "BUILD": lambda _: self._build(self._pop()),
            "PERSID": lambda _: self.stack.append(Stub("persistent object")),
            "BINPERSID": lambda _: self._refer(_persistent(self._pop())),
        }
        self.operations |= dict.fromkeys(("PROTO", "FRAME"), lambda _: None)
        self.operations |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._remember)
        self.operations |= dict.fromkeys(
            ("GET", "BINGET", "LONG_BINGET"), lambda index: self.stack.append(self.memo[index])
        )
        self.operations |= dict.fromkeys(
            ("EXT1", "EXT2", "EXT4"), lambda code: self.stack.append(Stub(f"extension {code}"))
        )

    def run(self, file: Readable) -> object:
        for operation, argument, _ in pickletools.genops(cast(IO[bytes], file)):
            name = operation.name
            if name in _CONSTANTS:
                self.stack.append(argument)
            elif name in _LITERALS:
                self.stack.append(_LITERALS[name])
            elif name == "STOP":
                return self._pop()
            elif name in self.operations:
                self.operations[name](argument)
            else:
                raise PickleError(f"the operation {name} has no place in a checkpoint")
        raise PickleError("it ends too early")

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleError("an operand is missing")
        return value

    def _take(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _to_mark(self) -> list[Any]:
        taken = []
        while (value := self.stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def _discard_to_mark(self) -> None:
        self._to_mark()

    def _remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _update(self, flat: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(_dictionary(flat))

    def _call(self, function: object, arguments: object) -> None:
        name = function.kind if isinstance(function, Stub) else str(function) if isinstance(function, Name) else "call"
        self.stack.append(_rebuilt(name, arguments if isinstance(arguments, tuple) else ()))

    def _refer(self, value: object) -> None:
        if isinstance(value, Storage):
            self.storages.setdefault(value.key, value)
        self.stack.append(value)

    def _build(self, state: object) -> None:
        if isinstance(self.stack[-1], Stub) and isinstance(state, dict):
            self.stack[-1].state.update(state)


def read_pickle(file: Readable) -> Pickled:
    """Return what the pickle at the file's position describes, and leave the file right behind it.

    Args:
        file: Bytes in memory or a mapped file; reading past their end returns what there is.

    Raises:
        PickleError: The bytes cannot be followed as a pickle.
    """
    machine = _Machine()
    try:
        return Pickled(machine.run(file), machine.storages)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise PickleError(f"it cannot be followed ({error})") from error
