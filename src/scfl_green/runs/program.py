"""The command ``train``: Hydra composes a configuration, ``run`` executes it; a user's mistake ends in one line."""

import errno
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from scfl_green.errors import BusyError, InputError, Stopped
from scfl_green.runs.mistakes import MISTAKES, one_line
from scfl_green.runs.names import check_sizes_of_opt, hydra_node, register_resolvers
from scfl_green.runs.network import network_of
from scfl_green.runs.quoting import quoted, to_type
from scfl_green.security.confidential import refuse_secret_arguments, refuse_secrets

LOG = logging.getLogger(__name__)
PACKAGE = Path(__file__).parents[1]
# In a wheel, and in a clone.
CONFIGS = next(folder for folder in (PACKAGE / "configs", PACKAGE.parents[1] / "configs") if folder.is_dir())
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RESUMES = "the same command resumes after the last finished round or epoch"
# Ctrl-C; what ends a job of a cluster; and what it may be told some time before, to stop by itself (sbatch --signal).
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
Metric = float | None | list[float | None]
RERUN = "--experimental-rerun"


def train(arguments: Sequence[str]) -> None:
    """Run ``python train.py ARGUMENTS``; all arguments are Hydra's."""
    for number in STOPS:
        signal.signal(number, _stop)
    # Else Hydra prints its errors over several lines, and hides our tracebacks.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = [quoted(argument) for argument in arguments]
    arguments = [*arguments, *network_of(arguments, CONFIGS / "model")]
    sys.argv[1:] = arguments
    try:
        refuse_secret_arguments(arguments)
        if any(word.startswith("--e") and RERUN.startswith(word.split("=")[0]) for word in arguments):
            raise InputError(f"{RERUN} would load a pickle, which can run code; repeat the overrides instead")
        register_resolvers()
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(job)()
    except MISTAKES as error:
        sys.exit(one_line(_behind(error, arguments)))
    except Stopped as stopped:
        print(f"stopped: {RESUMES}", file=sys.stderr)
        sys.exit(128 + stopped.number)


def _behind(error: Exception, arguments: Sequence[str]) -> Exception:
    """The mistake itself: Hydra takes any in the command of an experiment that sweeps for a missing --multirun."""
    if "Ambiguous value" not in str(error) or any(word.startswith("-") for word in arguments):
        return error
    given = OverridesParser.create().parse_overrides(list(arguments))
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            hydra.compose("train", [str(one.input_line) for one in given if not one.is_sweep_override()])
    except MISTAKES as behind:
        return behind
    swept = next(one.input_line for one in given if one.is_sweep_override())
    return InputError(
        f"{swept}: several values are a sweep: add -m; or, if they are one value, type {to_type(str(swept))}"
    )


def job(cfg: DictConfig) -> Metric:
    """Run the configuration that Hydra composed; returns the metrics for its sweepers to optimise."""
    if threading.current_thread() is threading.main_thread():
        # In a launcher's process. Submitit's would go on training until SLURM kills it, with workers that are gone.
        signal.signal(signal.SIGTERM, _stop)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # imported by torchmetrics, it logs its fonts
    os.chdir(hydra_node().runtime.cwd)  # where the user's paths start, whatever hydra.job.chdir says
    several, folder = hydra_node().mode == RunMode.MULTIRUN, Path(hydra_node().runtime.output_dir)
    try:
        _refuse_written_secrets(cfg, folder)
        check_sizes_of_opt(hydra_node())
        metric = _run(cfg)
    except MISTAKES as error:
        if several:
            raise  # Hydra names this job and continues with the others
        if not isinstance(error, BusyError):
            _remove_if_unused(folder)
        sys.exit(one_line(error))
    except OSError as error:
        if error.errno not in NO_ROOM or several:
            raise
        sys.exit(f"error: no room to write ({error}); free some, and {RESUMES}")
    if not several:
        LOG.info("page: scfl-green report %s", shlex.quote(os.path.relpath(folder)))
    return metric


def _run(cfg: DictConfig) -> Metric:
    # torch and Flower take seconds to import: not for --help, --cfg and a wrong value, and while the hardware is being
    # detected.
    from scfl_green.runs.early import check_early

    check_early(cfg)
    from scfl_green.energy.hardware import detect_hardware

    detect_hardware(cfg.carbon.country, cfg.carbon.cpu_watts, cfg.carbon.ram_watts)
    from scfl_green.runs.run import run

    record = run(cfg)
    names = cfg.optimized_metric
    return record.get(names) if isinstance(names, str) else [record.get(name) for name in names]


class NoSecrets(Callback):
    """Ends the program before Hydra writes a configuration that seems to contain a secret."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            refuse_secrets(config)
        except InputError as error:
            sys.exit(one_line(error))  # Hydra would turn an exception into a warning

    on_multirun_start = on_run_start


def _refuse_written_secrets(cfg: DictConfig, folder: Path) -> None:
    """The same for a job of a sweep, whose overrides Hydra has already written; removes them."""
    try:
        refuse_secrets(cfg)
    except InputError:
        shutil.rmtree(folder / ".hydra", ignore_errors=True)
        raise


def _remove_if_unused(folder: Path) -> None:
    """Remove the folder if it holds only Hydra's files, made before any check."""
    if {path.name for path in folder.iterdir()} <= {".hydra", "train.log"}:
        shutil.rmtree(folder)
        for parent in list(folder.parents)[:2]:
            if not any(parent.iterdir()):
                parent.rmdir()


def _stop(number: int, _: object) -> None:
    """Stop the run; a second signal kills it."""
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)
