"""What must not leave: secrets are refused where they are met, and what is shared names no paths and no people."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scfl_green.errors import InputError

SECRET_KEY = re.compile(
    r"(^|_)((api|access|private|signing|encryption|ssh)_?keys?|tokens?|passwords?|passwd|passphrases?|pwd|secrets?"
    r"|credentials?|bearer|auth|authorization)(_|$)"
)
SECRET_VALUE = re.compile(
    r"^[0-9a-f]{40}$|wandb_v\d_|\bgh[oprsu]_[A-Za-z0-9]{30}|github_pat_|\bhf_[A-Za-z0-9]{30}"
    r"|\bsk-(ant-|proj-|[A-Za-z0-9]{32})|\bAKIA[0-9A-Z]{12}|\bxox[a-z]-"
    r"|\beyJ[\w-]{8,}\.[\w-]+\.|PRIVATE KEY|://[^/\s@]*:[^/\s@]*@|[?&](token|key|sig|signature|access_token|api_key)="
)
# Strings under these keys are words of this program; any other may be a path, a column, or what somebody is called.
OF_RECORD = ("data", "model", "opt", "regime", "split", "fingerprint", "method", "country", "energy_mode", "device")
OF_CONFIG = ("_target_", "name", "preprocess", "precision", "accelerator", "monitor")
VERSIONS = ("torch", "pytorch-lightning", "flwr", "codecarbon", "scfl-green")
WORDS = frozenset(OF_RECORD + OF_CONFIG + VERSIONS)
# Clients may be donors, and donors may be called by numbers.
PEOPLE = ("client", "newcomers", "test")
# Not only paths: what is interpolated may come from the environment.
PATH = re.compile(r"[/\\~]|\.h5ad|\.safetensors|\$\{")
NUMBERS = re.compile(r"[\d.,e+\[\]-]*|null|true|false")
# Groups of the configuration, whose choices are words of this program; any other key may be a user's own.
GROUPS = (
    "callbacks", "carbon", "data", "experiment", "federation", "genes", "launcher", "logger", "model", "opt", "paths",
    "privacy", "regime", "split", "trainer",
)  # fmt: skip
WITH_PATHS = ("weights", "data.path", "data.source", "paths")
# Groups that only repeat what another key says.
REPEATING = ("hydra", "logger", "paths")
DEEPEST = 40


def refuse_secret(key: str, value: Any) -> None:
    """InputError where a key or value of the configuration looks like a secret; names the key alone."""
    if value is None or isinstance(value, bool):
        return
    text, named = str(value).strip("'\" "), key if not SECRET_VALUE.search(key) else "a key"
    if (found := SECRET_KEY.search(_words(key))) and text.lower() not in ("", "null", "true", "false", "???"):
        if found[2].startswith("token") and re.fullmatch(r"[\d.]{1,6}", text):
            return  # their number, as of words
        why = "it looks like a secret"
    elif SECRET_VALUE.search(text):
        why = "its value looks like a secret"
    elif name := next((n for n, known in os.environ.items() if _is_secret(n, known) and known in text), None):
        why = f"it holds the value of the environment variable {name}"
    else:
        return
    raise InputError(
        f"{named}: {why}, and configurations are written down; it belongs into the environment or ~/.netrc"
    )


def refuse_secret_arguments(arguments: Sequence[str]) -> None:
    """The same for a command line, before Hydra repeats it in an error or writes it down."""
    for number, argument in enumerate(arguments, start=1):
        refuse_secret(f"argument {number}", argument)
        key, _, value = argument.partition("=")
        refuse_secret(key.strip("+~ "), value)
        for inner, text in re.findall(r"([\w.-]+)['\"]?\s*[:=]\s*([^,}\]]*)", value):
            refuse_secret(inner, text)


def refuse_secrets(cfg: DictConfig) -> None:
    """The same for every value of a composed configuration, whichever file or variable it comes from."""
    for path, value in sorted(_values(cfg, ()), key=lambda entry: entry[0][0] in REPEATING):
        refuse_secret(".".join(path), value)


def _values(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What can be resolved yet, with the keys that lead there."""
    if len(path) > DEEPEST:
        raise InputError(f"{'.'.join(path[:6])}...: the configuration refers to itself")
    for key in list(node.keys()) if isinstance(node, DictConfig) else range(len(node)):
        try:
            value = node[key]
        except OmegaConfBaseException:
            continue
        if isinstance(value, dict | list | tuple):  # what a resolver made
            value = OmegaConf.create(value, parent=node)
        below = (*path, str(key))
        yield from _values(value, below) if OmegaConf.is_config(value) else [(below, value)]


def _is_secret(name: str, value: str) -> bool:
    return len(value) >= 8 and value[0] != "/" and SECRET_KEY.search(_words(name)) is not None


def _words(key: str) -> str:
    """A key in snake case: apiKey, API-KEY and api.key alike."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower())


def public(value: Any, key: str = "") -> Any:
    """What of a configuration or a record may be uploaded: numbers, and strings that are words of this program."""
    if isinstance(value, Mapping):
        shown = {name: public(below, str(name)) for name, below in value.items()}
        return {name: below for name, below in shown.items() if below is not None or value[name] is None}
    if isinstance(value, list | tuple):
        shown_items = [public(item, key) for item in value]
        return None if key in PEOPLE or any(item is None for item in shown_items) else shown_items
    if isinstance(value, str):
        return value if key in WORDS or (key == "test" and value in ("cells", "donors")) else None
    return None if key == "client" else value


def shown(override: str, separator: str = "=", *, people: bool = True) -> str:
    """An override as it may stand in a folder's name or a report: a short hash in the place of a path, and unless
    ``people``, of everything but numbers and choices of groups."""
    key, found, value = override.partition(separator)
    plain = key.lstrip("+~")
    path = PATH.search(value) or not found or any(plain == of or plain.startswith(f"{of}.") for of in WITH_PATHS)
    person = not people and plain not in GROUPS and not re.fullmatch(NUMBERS, value.lower())
    person = person or (not people and plain.rpartition(".")[2] in PEOPLE)
    return f"{key if found else ''}{found}{short_hash(override)}" if path or person else override


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
