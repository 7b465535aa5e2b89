"""What `jax.jit` returns for a function that donates: a wrapper of JAX's object that records each call's donations.

`Watched` is a full `jax.stages.Wrapped`: the same results, errors, tracebacks, signature, attributes, class (as
`isinstance` sees it), binding as a method, and every operation that JAX offers on a jitted function. Two requirements
are not visible to a type checker: without the slot for weak references JAX ends the process (`eval_shape`), and
`lower`, `trace`, `eval_shape` and `clear_cache` must be attributes of the class, since Python ≥ 3.12 looks them up
there.

Every jitted function passes through `_cpp_pjit`, under every name of `jit`. A watched one is returned if the user, or a
library, requested a function that donates, and to `pmap`, which calls what it jitted like any caller. JAX's own
functions, and those that it makes internally, get JAX's object.
"""

from __future__ import annotations

import operator
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from sys import _getframe
from types import FrameType
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks.donation.leaf_reader import Reader, StructureChanged, reader_of
from jitwatch.jaxhooks.donation.ledger import Donor, Ledger
from jitwatch.jaxhooks.donation.sites import Variant
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.identity.jax_functions import MAKERS
from jitwatch.jaxhooks.observer import drop_frame
from jitwatch.jaxhooks.stack import Args, Kwargs, callers
from jitwatch.jaxhooks.values.arguments import names_of_positions
from jitwatch.jaxhooks.values.description import wrapped_classes
from jitwatch.jaxhooks.values.paths import (
    NamedLeaves,
    is_flax_module,
    is_of_pmap,
    named_leaves,
    parameters,
    pmap_leaves,
    unpacked_names,
)
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.function import Function

#: Attributes of the wrapper itself; all others are those of JAX's object.
_OWN = frozenset({"_calls", "__dict__", "__weakref__"})
#: JAX's functions between the user's call of `jit` and the creation of the jitted function.
_JIT_INTERNALS = MAKERS | {"_cpp_pmap", "pmap", "<lambda>"}
_PMAP_FILE = "pmap.py"
_MAX_FRAMES = 12
#: Tree structures kept per jitted object.
_MAX_STRUCTURES = 64


class ActiveAgent(Protocol):
    """The installed agent, as watched functions see it."""

    ledger: Ledger

    def donor_of(self, fun: Any, args: Args, static_argnums: tuple[int, ...]) -> Donor:
        """Return the donor of a call of `fun` with these arguments."""

    def call_failed(self, calls: Calls, error: BaseException, args: Args, kwargs: Kwargs, frame: FrameType) -> None:
        """Handle an error of a call of a watched function."""

    def program_failed(
        self, function: Function, error: BaseException, named: NamedLeaves, donated: NamedLeaves
    ) -> None:
        """Handle an error of a program that was compiled ahead of time and donates."""


#: All instances, to reset them when JAX's caches are cleared.
_instances: WeakIdMap[None] = WeakIdMap()
_active_agent: ActiveAgent | None = None


def set_active_agent(agent: ActiveAgent | None) -> None:
    """Set the agent that all watched functions report to, also those made under earlier agents; None for no agent."""
    global _active_agent
    _active_agent = agent
    for calls, _ in _instances.items():
        calls.record_one = None


def caches_cleared() -> None:
    """Handle that the job cleared JAX's caches, or one of them."""
    for calls, _ in _instances.items():
        calls.caches_cleared()


def active_agent() -> ActiveAgent | None:
    """Return the installed agent, if there is one."""
    return _active_agent


class Calls:
    """Records what each call of one jitted object donates, and which calls fail.

    Args:
        jitted: JAX's object.
        fun: The function that was jitted.
        static_argnums: Its static arguments.
        positions: Positional arguments that are donated.
        names: Keyword arguments that are donated.
        name_of: Returns the name of a positional argument.
    """

    def __init__(
        self,
        jitted: Any,
        fun: Any,
        *,
        static_argnums: tuple[int, ...],
        positions: tuple[int, ...],
        names: tuple[str, ...],
        name_of: Callable[[int], str],
    ) -> None:
        self.jitted = jitted
        self.donor: Donor | None = None
        self._fun = fun
        self._static_argnums = static_argnums
        self._positions = positions
        self._names = tuple(sorted(names))
        self._single_position = positions[0] if len(positions) == 1 else None
        self._name_of = name_of
        self._variants: dict[Any, Variant] = {}
        self._size = -1
        #: Whether there were several programs before the first call that was observed.
        self._may_vary = False
        #: Records a call that donates one array as the last one did; None unless the last one was such a call.
        self.record_one: Callable[[Args, Kwargs, FrameType], bool] | None = None
        #: Reads the leaves of the structure of the last inspected call; None if that donated a single array.
        self._reader: Reader | None = None
        self._last_variant: Variant | None = None
        size = getattr(jitted, "_cache_size", None)
        # The function of pmap itself (until 0.9) has a plain number.
        self._cache_size: Callable[[], Any] = size if callable(size) else lambda: getattr(jitted, "_cache_size", 0)
        _instances.set(self, None)

    def failed_after_donating(self, args: Args, kwargs: Kwargs, frame: FrameType) -> None:
        """Record a call that raised an exception after it had donated its arguments."""
        donor = self.donor
        if donor is not None and donor.ledger.is_open:
            self._inspect_call(donor, self._donated_values(args, kwargs), args, kwargs, frame, has_failed=True)

    def ended(self, args: Args, kwargs: Kwargs, frame: FrameType) -> None:
        """Record a call that returned; `frame` is its caller. Performance critical."""
        try:
            donor = self.donor
            if donor is None or not donor.ledger.is_open:
                donor = self._current_donor(args)
                if donor is None:
                    return
            position = self._single_position
            if position is not None and not kwargs and position < len(args):
                given = args[position]
            else:
                given = self._donated_values(args, kwargs)
            # Unless JAX has compiled since, most calls have the structure of the last one.
            if self._cache_size() == self._size:
                variant = self._last_variant
                if variant is not None and (leaves := self._read_leaves(given)) is not None:
                    donor.record(leaves, variant, frame)
                    return
            self._inspect_call(donor, given, args, kwargs, frame)
        except Exception:
            guard.failed("donation")

    def failed(self, error: BaseException, args: Args, kwargs: Kwargs, frame: FrameType) -> None:
        """Handle a call that raised an exception, which propagates unchanged; `frame` is its caller."""
        try:
            agent = _active_agent
            if agent is not None and self._current_donor(args) is not None:
                agent.call_failed(self, error, args, kwargs, frame)
        except Exception:
            guard.failed("donation")

    def roots(self, args: Args, kwargs: Kwargs) -> list[tuple[str, Any]]:
        """Return the donated arguments of a call by name, in the order in which `ended` reads them."""
        found = [(self._name_of(i), args[i]) for i in self._positions if i < len(args)]
        return found + [(name, kwargs[name]) for name in self._names if name in kwargs]

    def all_roots(self, args: Args, kwargs: Kwargs) -> list[tuple[str, Any]]:
        """Return all arguments of a call by name, static ones left out."""
        found = [(self._name_of(i), value) for i, value in enumerate(args) if i not in self._static_argnums]
        return found + list(kwargs.items())

    def _donated_values(self, args: Args, kwargs: Kwargs) -> list[Any]:
        return [value for _, value in self.roots(args, kwargs)]

    def _read_leaves(self, given: Any) -> list[Any] | None:
        """Return the leaves of the donated values, or None if they have another structure than the last call's."""
        reader = self._reader
        if reader is None:
            return None
        try:
            return reader(given)
        except StructureChanged:
            return None

    def _inspect_call(
        self, donor: Donor, given: Any, args: Args, kwargs: Kwargs, frame: FrameType, *, has_failed: bool = False
    ) -> None:
        """Record a call that the fast path cannot: its structure differs from the last one's, or JAX has compiled."""
        size = self._cache_size()
        if size != self._size:
            self._may_vary |= self._size < 0 and size > 1
            self._size = size
            for variant in self._variants.values():
                variant.reset()
        leaves, structure = donor.ledger.arrays.flatten(given, None)
        known = self._variants.get(structure)
        if known is None:
            known = self._new_variant(donor, structure, args, kwargs, frame)
        self._last_variant, self._reader, self.record_one = known, None, None
        if given.__class__ is not donor.kind:
            with suppress(StructureChanged):
                self._reader = reader_of(given, donor.ledger.arrays.split)
            if self._reader is None:
                self._last_variant = None
        if has_failed:
            donor.record_each(leaves, known, frame, has_failed=True)
        else:
            donor.record(leaves, known, frame)
        regular = known.regular
        if given.__class__ is donor.kind and self._single_position is not None and regular is not None:
            self.record_one = donor.recorder_of_one(known, regular, self._single_position, self._cache_size)
            if not donor.ledger.is_open:  # closed by another thread meanwhile, which has reset it
                self.record_one = None

    def _new_variant(self, donor: Donor, structure: Any, args: Args, kwargs: Kwargs, frame: FrameType) -> Variant:
        """Return the variant of the first call with arguments of this structure."""
        roots = self.roots(args, kwargs)
        named = named_leaves(roots)
        if is_of_pmap(frame.f_code) and len(leaves := pmap_leaves(frame)) == len(args):
            named = [leaves[i] for i in self._positions]
        packed = unpacked_names(self._fun, args, [path for path, _ in named])
        paths, parameters = packed or ([path for path, _ in named], [self._name_of(i) for i in range(len(args))])
        variant = donor.variant((self._positions, self._names), tuple(paths))
        variant.may_vary |= self._may_vary
        variant.reset()  # other jitted objects of the function share it, whose programs may have other shapes
        variant.parameters = tuple(parameters)
        variant.in_place = frozenset(name for name, tree in roots if is_flax_module(tree))
        if len(self._variants) >= _MAX_STRUCTURES:
            self._variants.clear()
        self._variants[structure] = variant
        return variant

    def caches_cleared(self) -> None:
        """Inspect the next call: equal cache sizes may now stand for different programs."""
        self._size = -1
        self.record_one = None

    def _current_donor(self, args: Args) -> Donor | None:
        """Return the donor in the ledger of the installed agent."""
        agent, donor = _active_agent, self.donor
        if donor is not None and donor.ledger.is_open:
            return donor
        self._variants, self._reader, self._last_variant, self.record_one = {}, None, None, None
        self._size, self._may_vary = -1, False
        self.donor = None if agent is None else agent.donor_of(self._fun, args, self._static_argnums)
        return self.donor


def _of_jitted(name: str) -> Any:
    """An attribute of JAX's object, read in C so that no frame of jitwatch encloses what is called."""
    return property(operator.attrgetter(f"_calls.jitted.{name}"))


class Watched:
    """A jitted function whose calls are recorded."""

    __slots__ = ("__dict__", "__weakref__", "_calls")

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        # Names, documentation and `__wrapped__` are read from the instance dictionary.
        self.__dict__.update(calls.jitted.__dict__)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        calls = self._calls
        try:
            result = calls.jitted(*args, **kwargs)
        except BaseException as error:
            try:
                calls.failed(error, args, kwargs, _getframe(1))
            except Exception:
                guard.failed("donation")
            drop_frame(error, _getframe().f_code)
            # A debugger may keep this frame, which would keep arguments that the caller has released.
            del args, kwargs
            raise
        try:
            record, frame = calls.record_one, _getframe(1)
            if record is None or not record(args, kwargs, frame):
                calls.ended(args, kwargs, frame)
        except Exception:
            guard.failed("donation")
        return result

    lower = _of_jitted("lower")
    trace = _of_jitted("trace")
    eval_shape = _of_jitted("eval_shape")
    #: So that `isinstance(f, type(jax.jit(g)))` holds; `type(f)` is this class.
    __class__ = _of_jitted("__class__")

    def clear_cache(self) -> None:
        """Clear the compiled programs, as JAX's method does."""
        self._calls.jitted.clear_cache()
        try:
            self._calls.caches_cleared()
        except Exception:
            guard.failed("donation")

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        # Not set yet while the object is copied or unpickled.
        if name in _OWN:
            raise AttributeError(name)
        return getattr(self._calls.jitted, name)

    def __repr__(self) -> str:
        return repr(self._calls.jitted)

    def __copy__(self) -> Watched:
        twin = Watched(self._calls)
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
        # Functions are deep-copied as themselves, and so are jitted ones.
        return self.__copy__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Byte for byte JAX's pickle: it loads as JAX's object, in processes without jitwatch as well.
        return self._calls.jitted.__reduce_ex__(protocol)


wrapped_classes.append((Watched, operator.attrgetter("_calls.jitted")))


def watched_jit(jitted: Any, fun: Any, jit_info: Any, jax_folders: tuple[str, ...]) -> Any:
    """Return a watched function for what JAX made, or the same object if it is not to be watched."""
    if not (jit_info.donate_argnums or jit_info.donate_argnames) or not _is_user_request(sys._getframe(1), jax_folders):
        return jitted
    statics = jit_info.static_argnums
    positions = donated_positions(jit_info.donate_argnums, statics)
    name_of = partial(_name_of, jit_info.fun_signature)
    names = jit_info.donate_argnames
    return Watched(Calls(jitted, fun, static_argnums=statics, positions=positions, names=names, name_of=name_of))


def watched_pmap(jitted: Any, fun: Any, options: dict[str, Any], jax_folders: tuple[str, ...]) -> Any:
    """Return the same for what `jax.pmap` makes until JAX 0.7, where it is no jitted function."""
    donated, statics = (_numbers(options.get(name, ())) for name in ("donate_argnums", "static_broadcasted_argnums"))
    if not donated or not _is_user_request(sys._getframe(1), jax_folders):
        return jitted
    name_of = partial(_name_of_parameter, fun)
    return Watched(Calls(jitted, fun, static_argnums=statics, positions=donated, names=(), name_of=name_of))


def _numbers(given: Any) -> tuple[int, ...]:
    """Normalize an argument such as `donate_argnums`: one number or several."""
    return (given,) if isinstance(given, int) else tuple(given)


def donated_positions(donate_argnums: tuple[int, ...], static_argnums: tuple[int, ...]) -> tuple[int, ...]:
    """Return the donated positional arguments; until JAX 0.8 the numbers leave out static arguments."""
    donated = sorted({i for i in donate_argnums if i >= 0})
    if not _numbers_skip_statics() or not static_argnums:
        return tuple(donated)
    highest = max(donated, default=0) + len(static_argnums) + 1
    dynamic = [i for i in range(highest) if i not in static_argnums]
    return tuple(dynamic[i] for i in donated if i < len(dynamic))


def _numbers_skip_statics() -> bool:
    """Whether JAX numbers donated arguments without the static ones; tested on its own function."""
    resolve = getattr(sys.modules.get("jax._src.api_util"), "resolve_argnums", None)
    try:
        return resolve is not None and tuple(resolve(None, None, (1,), None, (0,), None)[0]) == (0,)
    except Exception:
        return False


def _name_of(signature: Any, position: int) -> str:
    return names_of_positions(signature, position + 1)[position]


def _name_of_parameter(fun: Any, position: int) -> str:
    return parameters(fun, position + 1)[position]


def _is_user_request(frame: FrameType | None, jax_folders: tuple[str, ...]) -> bool:
    """Whether user code, a library or `pmap` requested the jitted function that JAX is making."""
    for one in callers(frame, _MAX_FRAMES):
        code = one.f_code
        if is_users(code.co_filename, jax_folders) is not False:
            return True
        if code.co_filename.startswith(jax_folders) and code.co_name not in _JIT_INTERNALS:
            return code.co_filename.endswith(_PMAP_FILE)
    return False
