"""Checks of arguments in a configuration against the signatures of their targets."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

from scfl_green.bounds import Fraction, Positive, Weight
from scfl_green.errors import InputError, listed, nearest

# Arguments that the program passes, and no configuration.
PASSED = ("self", "job", "sums", "n_types", "meter", "to", "where")
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
# Bounds that the signatures of other libraries lack.
LIBRARY_BOUNDS = {
    "lr": Annotated[float, Field(gt=0, le=10)],
    "fraction_train": Fraction,
    "fraction_evaluate": Annotated[float, Field(ge=0, le=1)],
    "proximal_mu": Weight,
    "eta": Positive,
}


class Problem(NamedTuple):
    """A wrong setting, as a user would override it (``key=value``), and what is expected."""

    setting: str
    message: str


class Parameters(NamedTuple):
    """Annotations by parameter, and whether any other name is accepted (``open``)."""

    annotations: dict[str, Any]
    open: bool


def target_problems(config: Any, path: tuple[str, ...] = ()) -> Iterator[Problem]:
    """Check the arguments of every ``_target_`` at any depth of a resolved configuration."""
    if isinstance(config, Mapping):
        if isinstance(name := config.get("_target_"), str):
            yield from argument_problems(".".join(path), _import(path, name), config)
        for key, value in config.items():
            yield from target_problems(value, (*path, str(key)))


def argument_problems(where: str, target: Callable[..., Any], arguments: Mapping[str, Any]) -> Iterator[Problem]:
    """Unknown names, and values that do not fit the annotation of their parameter."""
    parameters = parameters_of(target)
    for name, value in arguments.items():
        key = f"{where}.{name}"
        if name in parameters.annotations:
            yield from value_problems(key, parameters.annotations[name], value)
        elif not parameters.open and not name.startswith("_"):
            yield unknown(key, value, parameters.annotations)


def value_problems(key: str, annotation: Any, value: Any) -> Iterator[Problem]:
    """Why a value does not fit an annotation; a value with its own ``_target_`` is checked separately."""
    if isinstance(value, Mapping) and "_target_" in value:
        return
    try:
        _adapter(annotation).validate_python(value)
    except ValidationError as error:
        for wrong in error.errors():
            message = wrong["msg"].removeprefix("Value error, ")
            yield Problem(f"{key}={wrong['input']}", message[0].lower() + message[1:])


def unknown(key: str, value: Any, known: Mapping[str, Any]) -> Problem:
    """The problem of an unknown name, with the nearest known one."""
    advice = nearest(key.rpartition(".")[2], known) or f"there are {listed(known)}"
    return Problem(f"{key}={value}", f"there is no such setting; it should be a known one: {advice}")


@cache
def parameters_of(target: Callable[..., Any]) -> Parameters:
    """The parameters of a function or class, with those of its bases if its ``__init__`` takes ``**kwargs``."""
    if not inspect.isclass(target):
        return _own(target)
    found: dict[str, Any] = {}
    for base in target.__mro__:
        if "__init__" in vars(base):
            of_base = _own(vars(base)["__init__"])
            found = of_base.annotations | found
            if not of_base.open:
                return Parameters(found, False)
    return Parameters(found, True)


def _own(function: Callable[..., Any]) -> Parameters:
    try:
        hints, parameters = get_type_hints(function, include_extras=True), inspect.signature(function).parameters
    except (NameError, TypeError, ValueError):  # names imported only for type checkers, or not a Python function
        return Parameters({}, True)
    ours = str(getattr(function, "__module__", "")).startswith("scfl_green.")
    found, open_ = {}, False
    for name, parameter in parameters.items():
        annotation = hints.get(name, Any)
        if parameter.kind is not parameter.VAR_KEYWORD:
            found[name] = annotation if ours else LIBRARY_BOUNDS.get(name, annotation)
        elif unpacked := _unpacked(annotation):
            found |= unpacked
        else:
            open_ = True
    return Parameters({name: annotation for name, annotation in found.items() if name not in PASSED}, open_)


def _unpacked(annotation: Any) -> dict[str, Any]:
    """The fields of ``**kwargs: Unpack[SomeTypedDict]``."""
    return get_type_hints(get_args(annotation)[0], include_extras=True) if get_origin(annotation) is not None else {}


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=STRICT)
    except PydanticUserError as error:
        # Types with their own configuration accept no other; other types cannot be checked.
        return TypeAdapter(annotation) if error.code == "type-adapter-config-unused" else TypeAdapter(Any)


def _import(path: tuple[str, ...], name: str) -> Callable[..., Any]:
    try:
        return get_object(name)
    except Exception as error:  # importing may raise anything
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise InputError(f"{'.'.join(path)}._target_={name}: cannot be imported ({reason})") from error
