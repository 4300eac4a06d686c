"""Reads a pickle as data: nothing that it names is imported, nothing is called.

pickletools takes the bytes apart and the small machine below builds plain values: numbers, text, lists, tuples, dicts,
and a Record for everything that a real unpickler would have made by a call. So there is no list of harmless names to
get wrong: no name leads to code at all. Opcodes: PEP 307, PEP 574 and the documentation of pickletools.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass, field
from typing import Any


class PickleError(Exception):
    """These bytes are no pickle that can be read as data; the message says what and at which byte."""


@dataclass(frozen=True, slots=True)
class Name:
    """A function or class that the pickle names; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A persistent id: for PyTorch, where the bytes of a tensor lie, or (old ones) a class with its source."""

    id: object


@dataclass(slots=True, eq=False)
class Record:
    """What a real unpickler would have made by calling ``by``: the arguments and the state, untouched. ``repr`` is
    short on purpose: values may share and contain each other."""

    by: Name
    arguments: object = field(repr=False)
    state: object = field(default=None, repr=False)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    ["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
     "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
     "BINBYTES8", "BYTEARRAY8"]
)  # fmt: skip
_DICTS = frozenset({Name("collections", "OrderedDict"), Name("__builtin__", "dict"), Name("builtins", "dict")})


def read(data: bytes) -> tuple[Any, int]:
    """The value of the pickle at the start of ``data``, and the bytes it took. Sets come as lists.

    Time and memory are linear in ``len(data)``, which the caller bounds. Values may be cyclic and share parts, so
    whoever walks them must bound the walk. Raises PickleError.
    """
    stream, machine, at = io.BytesIO(data), _Machine(), 0
    try:
        for opcode, argument, position in pickletools.genops(stream):
            at = position or 0
            machine.step(opcode.name, argument)
        return machine.stack.pop(), stream.tell()
    except PickleError as error:
        raise PickleError(f"byte {at}: {error}") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PickleError(f"byte {at}: damaged pickle ({type(error).__name__})") from None


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._outer: list[list[Any]] = []  # what lies below each mark
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
            return
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
            return
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self._outer.append(stack)
                self.stack = []
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self._since_mark()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise IndexError
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                self._push(tuple(self._since_mark()))
            case "LIST" | "FROZENSET":
                self._push(self._since_mark())
            case "DICT":
                self._push(_pairs(self._since_mark()))
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._since_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._update([key, value])
            case "SETITEMS":
                self._update(self._since_mark())
            case "GLOBAL":
                stack.append(Name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(Name(_text(module), _text(attribute)))
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                self._push(_made(stack.pop(), arguments))
            case "NEWOBJ_EX":
                named, arguments = stack.pop(), stack.pop()
                self._push(_made(stack.pop(), (arguments, named)))
            case "INST":
                self._push(_made(Name(*argument.split(" ", 1)), tuple(self._since_mark())))
            case "OBJ":
                by, *rest = self._since_mark()
                self._push(_made(by, tuple(rest)))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if isinstance(target, Record):
                    target.state = state
                elif not isinstance(target, dict):  # an OrderedDict's attributes are of no use here
                    raise PickleError(f"gives a state to a {type(target).__name__}")
            case "PERSID":
                stack.append(Reference(argument))
            case "BINPERSID":
                stack.append(Reference(stack.pop()))
            case _:
                raise PickleError(f"opcode {name} is not allowed")

    def _push(self, value: object) -> None:
        self.stack.append(value)

    def _since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self._outer.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Record):  # of a Record's items none is wanted
            raise PickleError(f"appends to a {type(self.stack[-1]).__name__}")

    def _update(self, flat: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(_pairs(flat))
        elif not isinstance(self.stack[-1], Record):
            raise PickleError(f"sets items of a {type(self.stack[-1]).__name__}")


def _made(by: object, arguments: object) -> object:
    match by:
        case Reference(("module", Name() as by, *_)):  # PyTorch before 1.6: a class, and its source beside it
            pass
    if not isinstance(by, Name):
        raise PickleError(f"calls a {type(by).__name__}, not a name")
    if by in _DICTS:
        match arguments:
            case ():
                return {}
            case ([*pairs],):
                return _pairs([part for pair in pairs for part in _two(pair)])
    return Record(by, arguments)


def _two(pair: object) -> tuple[Any, Any]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise PickleError("an OrderedDict of other things than pairs")
    return pair[0], pair[1]


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    if len(flat) % 2:
        raise PickleError("a key without a value")
    return {_key(flat[i]): flat[i + 1] for i in range(0, len(flat), 2)}


def _key(key: object) -> object:
    # Text and numbers only: hashing a tuple of tuples of tuples ... can be made to last for ever. Nobody asks for
    # another key, so it may be any.
    return key if isinstance(key, (str, int, float, bytes)) or key is None else object()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PickleError("a name that is no text")
    return value
