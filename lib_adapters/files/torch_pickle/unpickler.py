"""A pickle read as data. It is a program for a stack machine; here only the instructions that build plain containers
exist, and the few names that PyTorch needs for tensors. Nothing is ever imported or called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from lib_adapters.errors import CorruptFile, shorten

_MAX_OPCODES = 1_000_000  # each may make an object of 64 bytes or so; ten thousand tensors need 300,000
_MAX_COPIED_ITEMS = (
    2_000_000  # items in all that calls make out of what is there, which a pickle may name again and again
)
_DAMAGE_ERRORS = (
    ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError, OverflowError,
    DeprecationWarning,  # where warnings are errors: an escape that no Python writes
)  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY_CONTAINERS: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_VALUE_OPCODES = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8",
))  # fmt: skip
_PUT_OPCODES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET_OPCODES = frozenset({"GET", "BINGET", "LONG_BINGET"})
_IGNORED_OPCODES = frozenset({"PROTO", "FRAME"})

Factory = Callable[..., Any]


class Global:
    """A global of the pickle that is allowed, standing for what we do instead of calling it."""

    def __init__(self, path: str, factory: Factory | None) -> None:
        self.path = path
        self.factory = factory


class SafeUnpickler:
    """One run over one pickle. `names`: dotted global -> what to do when the pickle calls it (None: never called)."""

    def __init__(self, allowed_globals: Mapping[str, Factory | None], persistent_load: Callable[[Any], Any]) -> None:
        self._allowed_globals = allowed_globals
        self._persistent_load = persistent_load
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._copied_items = 0

    def load(self, stream: BinaryIO) -> Any:  # a pickle may hold anything plain
        """The object at the end. CorruptFile for code, damage and absurd size."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if opcode.name == "STOP":
                    return self._stack.pop()
                if count > _MAX_OPCODES:
                    raise CorruptFile("is an absurdly large pickle; it was not opened")
                self._step(opcode.name, argument)
        except _DAMAGE_ERRORS as error:
            raise CorruptFile(f"is a damaged PyTorch file ({shorten(error, 100)}); download it again") from error
        raise CorruptFile("is a damaged PyTorch file (it ends too early); download it again")

    def _step(self, name: str, argument: Any) -> None:
        push = self._stack.append
        if name in _VALUE_OPCODES:
            push(argument)
        elif name in _PUT_OPCODES:
            self._memo[argument] = self._stack[-1]
        elif name in _GET_OPCODES:
            push(self._memo[argument])
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _EMPTY_CONTAINERS:
            push(_EMPTY_CONTAINERS[name]())
        elif name in _TUPLE_SIZES:
            push(tuple(self._pop(_TUPLE_SIZES[name])))
        elif name not in _IGNORED_OPCODES:
            action = getattr(self, f"_do_{name.lower()}", None)
            if action is None:
                raise CorruptFile(f"contains code (the instruction {name}); it was not run")
            action(argument)

    def _pop(self, count: int) -> list[Any]:
        if count > len(self._stack) or count < 1:
            raise ValueError("its stack is too short")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        mark = self._marks.pop()
        taken = self._stack[mark:]
        del self._stack[mark:]
        return taken

    def _do_mark(self, _: object) -> None:
        self._marks.append(len(self._stack))

    def _do_memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _do_pop(self, _: object) -> None:
        self._stack.pop()

    def _do_pop_mark(self, _: object) -> None:
        self._pop_to_mark()

    def _do_dup(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _do_tuple(self, _: object) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _do_list(self, _: object) -> None:
        self._stack.append(self._pop_to_mark())

    def _do_dict(self, _: object) -> None:
        table: dict[Any, Any] = {}
        _fill(table, self._pop_to_mark())
        self._stack.append(table)

    def _do_append(self, _: object) -> None:
        item = self._stack.pop()
        _plain_list(self._stack[-1]).append(item)

    def _do_appends(self, _: object) -> None:
        items = self._pop_to_mark()
        _plain_list(self._stack[-1]).extend(items)

    def _do_additems(self, argument: object) -> None:
        self._do_appends(argument)

    def _do_setitem(self, _: object) -> None:
        pair = self._pop(2)
        _fill(self._stack[-1], pair)

    def _do_setitems(self, _: object) -> None:
        items = self._pop_to_mark()
        _fill(self._stack[-1], items)

    def _do_global(self, argument: str) -> None:
        self._stack.append(self._find_global(argument.replace(" ", ".", 1)))

    def _do_stack_global(self, _: object) -> None:
        module, name = self._pop(2)
        self._stack.append(self._find_global(f"{module}.{name}"))

    def _do_reduce(self, _: object) -> None:
        target, arguments = self._pop(2)
        if not isinstance(target, Global) or target.factory is None or type(arguments) is not tuple:
            raise CorruptFile("contains code (a call of something that is not a tensor); it was not run")
        made = target.factory(*arguments)
        self._count_items(made)
        self._stack.append(made)

    def _do_newobj(self, argument: object) -> None:
        self._do_reduce(argument)

    def _do_build(self, _: object) -> None:
        """State for an object: only torch's ParameterDict has one that matters, its parameters."""
        target, state = self._pop(2)
        if type(target) is dict and type(state) is dict:
            parameters = state.get("_parameters") or {}
            self._count_items(parameters)
            target.update(parameters)
        self._stack.append(target)

    def _do_binpersid(self, _: object) -> None:
        self._stack.append(self._persistent_load(self._stack.pop()))

    def _count_items(self, made: object) -> None:
        if isinstance(made, (str, bytes, tuple, list, dict)):
            self._copied_items += len(made) // (16 if isinstance(made, (str, bytes)) else 1)
        if self._copied_items > _MAX_COPIED_ITEMS:
            raise CorruptFile("is an absurdly large pickle; it was not opened")

    def _find_global(self, path: str) -> Global:
        if path not in self._allowed_globals:
            raise CorruptFile(f"contains code ({shorten(path, 100)}); it was not run")
        return Global(path, self._allowed_globals[path])


def _plain_list(target: object) -> list[Any]:
    if type(target) is not list:
        raise ValueError("it appends to something that is not a list")
    return target


def _fill(table: object, items: list[Any]) -> None:
    """Keys are text or numbers: hashing deeper things could run out of stack."""
    if type(table) is not dict or len(items) % 2:
        raise ValueError("it fills something that is not a table")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, (str, int, float)):
            raise ValueError("a table has a key that is neither text nor a number")
        table[key] = value
