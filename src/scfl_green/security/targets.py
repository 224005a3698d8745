"""What a configuration may name in ``_target_``: what is loaded cannot run code of its own choosing."""

import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from scfl_green.errors import InputError

# A name is allowed where it is one of these or below one. A line here is all that a new one of ours takes.
OURS = (
    "scfl_green.training.callbacks",
    "scfl_green.data.dataset.pooled",
    *(f"scfl_green.data.sources.download.{name}" for name in ("Asset", "cellxgene", "download", "github_release")),
    *(f"scfl_green.data.clients.{name}" for name in ("by_client", "chunks", "dirichlet", "iid")),
    *(f"scfl_green.data.features.prepare.{name}" for name in ("all_genes", "between_within", "highly_variable")),
    *(f"scfl_green.data.sources.published.{name}" for name in ("from_table", "from_tar")),
    *(f"scfl_green.data.sources.local.{name}" for name in ("fetched", "files", "packaged")),
    "scfl_green.data.sources.synthetic.write",
    "scfl_green.training.dp.dp_sgd.DPSGD",
    "scfl_green.federated.statistics.by_query",
    "scfl_green.training.budget.CarbonBudget",
    "scfl_green.federated.simulate.Federation",
    "scfl_green.models",
    "scfl_green.training.pruning.Prune",
    *(f"scfl_green.runs.regimes.{name}" for name in ("central", "federated", "finetune")),
    "scfl_green.runs.tracking.wandb_logger",
)
# Of other libraries classes alone, since there are functions everywhere that read files or start processes.
THEIRS = (
    "flwr.serverapp.strategy",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.trainer.trainer.Trainer",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "pytorch_lightning.profilers",
    "torch.optim",
    "torchmetrics.classification",
)
# What Hydra makes before it calls us.
HYDRAS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "scfl_green.analysis.sweep.Sweep",
)
LOGGING = ("logging.FileHandler", "logging.Formatter", "logging.NullHandler", "logging.StreamHandler")
# Stands for the folder of a run, which is not known when a configuration is checked.
OUTPUT = "OUTPUT"
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
# Public names of plain ASCII: look-alikes of other alphabets, relative and private names are none.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*")

# The keys that lead to a value of a configuration, and the value.
Entry = tuple[tuple[str, ...], Any]


def check(config: Any, trusted: Sequence[str] = (), *, where: str = "", resolve: bool = True) -> None:
    """InputError where a ``_target_`` anywhere in a resolved configuration is not below what is allowed or ``trusted``.

    ``resolve``: it is also imported, and must be a class or function of the very module that is named, defined below
    what is allowed: what a module has only imported is refused. ``where`` is the key of ``config``.
    """
    for path, name in _named(config):
        key = ".".join((where, *path) if where else path)
        _check_name(key, name, _prefixes(trusted))
        if resolve:
            _check_object(key, name, _prefixes(trusted))


def check_of_hydra(entry: Entry, trusted: Sequence[str] = ()) -> None:
    """InputError where an entry of the ``hydra`` node would run other code than Hydra's own and ours: its callbacks,
    launcher, sweeper and logging are made before any of our code runs."""
    path, value = entry
    key = ".".join(path)
    if path[-1] == "_target_" and value not in HYDRAS:
        _check_name(key, value, _prefixes(trusted))
    if path[1] in ("job_logging", "hydra_logging"):
        if path[-1] in ("()", "class") and value not in LOGGING:
            raise InputError(f"{key}={_short(value)}: it may be one of {', '.join(LOGGING)}")
        if isinstance(value, str) and "://" in value and value not in STREAMS:
            raise InputError(f"{key}={_short(value)}: it may be one of {', '.join(STREAMS)}")
        if path[-1] == "filename" and not re.fullmatch(rf"{OUTPUT}/[\w.-]+\.log", str(value)):
            raise InputError(f"{key}={_short(value)}: a log is expected as ${{hydra.runtime.output_dir}}/NAME.log")
    if path[1:3] == ("job", "env_set"):
        raise InputError(f"{key}: set variables of the environment where train.py is started")


def _named(config: Any) -> Iterator[Entry]:
    """Every ``_target_`` at any depth, with the keys that lead to it."""
    if isinstance(config, dict | list | tuple):
        for key, below in config.items() if isinstance(config, dict) else enumerate(config):
            if key == "_target_":
                yield (key,), below
            for path, name in _named(below):
                yield (str(key), *path), name


def _prefixes(trusted: Sequence[str]) -> tuple[str, ...]:
    if isinstance(trusted, str) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in trusted):
        raise InputError("trusted: a list of modules or names is expected, such as trusted=[my_lab.models]")
    return tuple(trusted)


def _check_name(key: str, name: Any, trusted: tuple[str, ...]) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{key}={_short(name)}: the dotted name of a public class or function is expected")
    if not _below(name, OURS + THEIRS + trusted):
        raise InputError(
            f"{key}={_short(name)}: not among what a configuration may name (scfl_green/targets.py); "
            "if you know that code and trust it, add its module: trusted=[MODULE]"
        )


def _check_object(key: str, name: str, trusted: tuple[str, ...]) -> None:
    place, _, last = name.rpartition(".")
    try:
        module = _find(place)
        found = getattr(module, last)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{key}={_short(name)}: there is no such class or function") from error
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    own = isinstance(module, ModuleType) and module.__name__ == place and _below(home, OURS + THEIRS + trusted)
    if not own or not (inspect.isclass(found) or (inspect.isfunction(found) and _below(home, OURS + trusted))):
        raise InputError(f"{key}={_short(name)}: no class or function that {_short(place)} defines to be configured")


def _find(name: str) -> Any:
    """As Hydra finds it: attributes first, then modules."""
    first, *rest = name.split(".")
    found, so_far = importlib.import_module(first), first
    for part in rest:
        so_far = f"{so_far}.{part}"
        if not hasattr(found, part):
            importlib.import_module(so_far)
        found = getattr(found, part)
    return found


def _below(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _short(value: Any) -> str:
    return str(value)[:80] if isinstance(value, str) and value.isascii() and value.isprintable() else ascii(value)[:80]
