"""Whether a shared model has been trained on a file: only who has its run can tell, by a salt that stays there."""

import hmac
import json
import secrets
from collections.abc import Iterable
from pathlib import Path

from scfl_green.data.sources.local import contents
from scfl_green.errors import InputError
from scfl_green.files import write_atomically
from scfl_green.training.trained_model import ABOUT

# In the run's folder, to be kept there.
SALT = "share.json"


def salted(run: Path, files: Iterable[str]) -> list[str]:
    """HMAC-SHA256 of files' SHA-256, keyed by the run's salt, which is drawn once; without the salt, nobody can test
    whether a file that they have is among them."""
    if not (run / SALT).is_file():
        write_atomically(run / SALT, json.dumps({"salt": secrets.token_hex(32)}).encode())
    salt = _salt(run)
    return sorted(hmac.digest(salt, bytes.fromhex(sha256), "sha256").hex() for sha256 in files)


def has_seen(model: Path, file: Path, run: Path) -> bool:
    """Whether the shared model in a folder was trained on ``file``, answered with the folder of its run."""
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if not (run / SALT).is_file():
        raise InputError(f"{run}: no {SALT} there, which only the run that was pushed has; name its folder with --run")
    hashes = json.loads((model / ABOUT).read_text())["trained_on"].get("salted_sha256")
    own = salted(run, json.loads((run / ABOUT).read_text())["trained_on"]["files"])
    if hashes != own:
        raise InputError(f"{model}: not pushed from {run}; name the folder of its run with --run")
    (_, sha256), *_ = contents([file])
    return salted(run, [sha256])[0] in hashes


def _salt(run: Path) -> bytes:
    try:
        return bytes.fromhex(json.loads((run / SALT).read_text())["salt"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{run / SALT}: damaged; put it back from a copy, or remove it to draw another salt") from None
