"""Arguments in a configuration, checked against the signature of what they are passed to."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

from scfl_green.bounds import Fraction, Positive, Weight
from scfl_green.errors import InputError, listed

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
# What the signatures of other libraries leave open.
THEIRS = {
    "lr": Annotated[float, Field(gt=0, le=10)],
    "fraction_train": Fraction,
    "fraction_evaluate": Annotated[float, Field(ge=0, le=1)],
    "proximal_mu": Weight,
    "eta": Positive,
}


class Problem(NamedTuple):
    """A wrong setting: where, as a user would override it (``key=value``), and what is expected there."""

    place: str
    message: str


class Parameters(NamedTuple):
    """Annotations by name, and whether any other name is accepted."""

    annotations: dict[str, Any]
    open: bool


def target_problems(config: Any, path: tuple[str, ...] = ()) -> Iterator[Problem]:
    """Check the arguments of every ``_target_`` at any depth of a resolved configuration."""
    if isinstance(config, Mapping):
        if isinstance(name := config.get("_target_"), str):
            yield from argument_problems(".".join(path), _found(path, name), config)
        for key, below in config.items():
            yield from target_problems(below, (*path, str(key)))


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
    """Why a value does not fit an annotation; what is itself configured by a ``_target_`` is checked on its own."""
    if isinstance(value, Mapping) and "_target_" in value:
        return
    try:
        _adapter(annotation).validate_python(value)
    except ValidationError as error:
        for wrong in error.errors():
            message = wrong["msg"].removeprefix("Value error, ")
            yield Problem(f"{key}={wrong['input']}", message[0].lower() + message[1:])


def unknown(key: str, value: Any, known: Mapping[str, Any]) -> Problem:
    """The problem of a name that nothing takes, with the nearest one that something does."""
    near = get_close_matches(key.rpartition(".")[2], known, 1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else f"there are {listed(known)}"
    return Problem(f"{key}={value}", f"there is no such setting; it should be one that has an effect: {advice}")


@cache
def parameters_of(target: Callable[..., Any]) -> Parameters:
    """The parameters of a function or class; of a class whose ``__init__`` passes the rest on, its bases' too."""
    if not inspect.isclass(target):
        return _own(target)
    found: dict[str, Any] = {}
    for base in target.__mro__:
        if "__init__" in vars(base):
            own = _own(vars(base)["__init__"])
            found = own.annotations | found
            if not own.open:
                return Parameters(found, False)
    return Parameters(found, True)


def _own(function: Callable[..., Any]) -> Parameters:
    try:
        hints, parameters = get_type_hints(function, include_extras=True), inspect.signature(function).parameters
    except (NameError, TypeError, ValueError):  # names imported for type checkers alone, or no Python function
        return Parameters({}, True)
    ours = str(getattr(function, "__module__", "")).startswith("scfl_green.")
    found, open_ = {}, False
    for name, parameter in parameters.items():
        annotation = hints.get(name, Any)
        if parameter.kind is not parameter.VAR_KEYWORD:
            found[name] = annotation if ours else THEIRS.get(name, annotation)
        elif unpacked := _unpacked(annotation):
            found |= unpacked
        else:
            open_ = True
    return Parameters({name: annotation for name, annotation in found.items() if name != "self"}, open_)


def _unpacked(annotation: Any) -> dict[str, Any]:
    """The fields of ``**kwargs: Unpack[SomeTypedDict]``."""
    return get_type_hints(get_args(annotation)[0], include_extras=True) if get_origin(annotation) is not None else {}


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=STRICT)
    except PydanticUserError as error:
        # Types with a configuration of their own take none; of others nothing can be checked.
        return TypeAdapter(annotation) if error.code == "type-adapter-config-unused" else TypeAdapter(Any)


def _found(path: tuple[str, ...], name: str) -> Callable[..., Any]:
    try:
        return get_object(name)
    except Exception as error:  # whatever importing it raises
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise InputError(f"{'.'.join(path)}._target_={name}: it cannot be imported ({reason})") from error
