"""Keeps secrets out of configurations, and paths and people out of what is shared."""

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
# Strings under these keys are this program's words; any other may be a path, a column or a person's name.
RECORD_KEYS = ("data", "model", "opt", "regime", "split", "fingerprint", "method", "country", "energy_mode", "device")
CONFIG_KEYS = ("_target_", "name", "preprocess", "precision", "accelerator", "monitor")
VERSION_KEYS = ("torch", "pytorch-lightning", "flwr", "codecarbon", "scfl-green")
PUBLIC_KEYS = frozenset(RECORD_KEYS + CONFIG_KEYS + VERSION_KEYS)
# Clients may be donors, even if their names are numbers.
PEOPLE_KEYS = ("client", "countries", "newcomers", "test")
# Not only paths: interpolated values may come from the environment.
PATH = re.compile(r"[/\\~]|\.h5ad|\.safetensors|\$\{")
NUMBERS = re.compile(r"[\d.,e+\[\]-]*|null|true|false")
# Groups of the configuration, whose choices are this program's words; any other key may be a user's own.
GROUPS = (
    "callbacks", "carbon", "data", "experiment", "federation", "genes", "launcher", "logger", "model", "opt", "paths",
    "privacy", "regime", "split", "trainer",
)  # fmt: skip
PATH_KEYS = ("weights", "data.path", "data.source", "carbon.intensity", "paths")
# Groups that only repeat the values of other keys.
REPEATING_GROUPS = ("hydra", "logger", "paths")
MAX_DEPTH = 40


def refuse_secret(key: str, value: Any) -> None:
    """InputError if a key or value of the configuration looks like a secret; the message names only the key."""
    if value is None or isinstance(value, bool):
        return
    text, named = str(value).strip("'\" "), key if not SECRET_VALUE.search(key) else "a key"
    if (found := SECRET_KEY.search(_snake_case(key))) and text.lower() not in ("", "null", "true", "false", "???"):
        if found[2].startswith("token") and re.fullmatch(r"[\d.]{1,6}", text):
            return  # a number of tokens, as in text
        why = "it looks like a secret"
    elif SECRET_VALUE.search(text):
        why = "its value looks like a secret"
    elif name := next((n for n, known in os.environ.items() if _is_secret(n, known) and known in text), None):
        why = f"it holds the value of the environment variable {name}"
    else:
        return
    raise InputError(f"{named}: {why}, and configurations are saved; set it in the environment or ~/.netrc instead")


def refuse_secret_arguments(arguments: Sequence[str]) -> None:
    """Refuse secrets on the command line, before Hydra repeats them in an error or saves them."""
    for number, argument in enumerate(arguments, start=1):
        refuse_secret(f"argument {number}", argument)
        key, _, value = argument.partition("=")
        refuse_secret(key.strip("+~ "), value)
        for inner, text in re.findall(r"([\w.-]+)['\"]?\s*[:=]\s*([^,}\]]*)", value):
            refuse_secret(inner, text)


def refuse_secrets(cfg: DictConfig) -> None:
    """Refuse secrets in a composed configuration, whichever file or variable they come from."""
    for path, value in sorted(_values(cfg, ()), key=lambda entry: entry[0][0] in REPEATING_GROUPS):
        refuse_secret(".".join(path), value)


def _values(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield all values that can be resolved yet, each with the keys that lead to it."""
    if len(path) > MAX_DEPTH:
        raise InputError(f"{'.'.join(path[:6])}...: the configuration refers to itself")
    for key in list(node.keys()) if isinstance(node, DictConfig) else range(len(node)):
        try:
            value = node[key]
        except OmegaConfBaseException:
            continue
        if isinstance(value, dict | list | tuple):  # made by a resolver
            value = OmegaConf.create(value, parent=node)
        below = (*path, str(key))
        yield from _values(value, below) if OmegaConf.is_config(value) else [(below, value)]


def _is_secret(name: str, value: str) -> bool:
    return len(value) >= 8 and value[0] != "/" and SECRET_KEY.search(_snake_case(name)) is not None


def _snake_case(key: str) -> str:
    """Convert a key to snake case: apiKey, API-KEY and api.key all become api_key."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower())


def public(value: Any, key: str = "") -> Any:
    """The part of a configuration or record that may be uploaded: numbers, and strings under ``PUBLIC_KEYS``."""
    if isinstance(value, Mapping):
        if key in PEOPLE_KEYS:
            return None
        shown = {name: public(below, str(name)) for name, below in value.items()}
        return {name: below for name, below in shown.items() if below is not None or value[name] is None}
    if isinstance(value, list | tuple):
        shown_items = [public(item, key) for item in value]
        return None if key in PEOPLE_KEYS or any(item is None for item in shown_items) else shown_items
    if isinstance(value, str):
        return value if key in PUBLIC_KEYS or (key == "test" and value in ("cells", "donors", "client")) else None
    return None if key == "client" else value


def shown(override: str, separator: str = "=", *, people: bool = True) -> str:
    """An override as shown in a folder's name or a report: a short hash replaces a path and, unless ``people``,
    everything but numbers and group choices."""
    key, found, value = override.partition(separator)
    plain = key.lstrip("+~")
    path = PATH.search(value) or not found or any(plain == k or plain.startswith(f"{k}.") for k in PATH_KEYS)
    person = not people and plain not in GROUPS and not re.fullmatch(NUMBERS, value.lower())
    person = person or (not people and plain.rpartition(".")[2] in PEOPLE_KEYS)
    return f"{key if found else ''}{found}{short_hash(override)}" if path or person else override


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
