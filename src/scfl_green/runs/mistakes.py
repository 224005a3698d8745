"""What a user's mistake is told as: one line in the words of the command line, without Hydra's or OmegaConf's own."""

import re

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from scfl_green.errors import InputError, listed, nearest
from scfl_green.runs.quoting import to_type

# Any other exception is a bug and shows its traceback.
MISTAKES = (HydraException, OmegaConfBaseException, InputError)
# Groups whose choices come with packages, and what installs them.
PLUGINS = {
    "hydra/launcher": "-c constraints.txt -e '.[launchers]' (for Ray, see configs/launcher/ray.yaml)",
    "hydra/sweeper": "-c constraints.txt -c constraints-optuna.txt -e '.[optuna]'",
}
MISSING = re.compile(r"Missing mandatory value: (\S+)")


def one_line(error: Exception) -> str:
    """The line that the program ends with."""
    return "error: " + " ".join(_told(error).split())


def _told(error: Exception) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if group in PLUGINS:
            return f"{group}={choice}: Hydra has no such plugin here: pip install {PLUGINS[group]}"
        advice = f"{nearest(choice, error.options)} there are {listed(error.options)}"
        return f"{group}={choice}: there is no such choice; {advice}"
    if isinstance(error, OverrideParseException):
        typed = f"; for a value of special characters, type {to_type(error.override)}" if "=" in error.override else ""
        return f"{error.override}: KEY=VALUE is expected{typed}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if not isinstance(cause, OmegaConfBaseException):
        return str(error).split("Config search path")[0]
    if missing := MISSING.search(str(cause)):
        return f"{missing[1]}: a value is expected; set {missing[1]}=VALUE"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        known = [key for key in cause.parent_node if key != "hydra"]
        advice = nearest(cause.key, known) or f"there are {listed(known)}"
        return f"{cause.full_key}: there is no such setting; {advice}"
    return f"{cause.full_key}: {(cause.msg or str(cause)).splitlines()[0]}"
