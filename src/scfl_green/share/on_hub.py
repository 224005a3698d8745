"""The Hugging Face Hub (``hf:OWNER``), by its own client: a model is the repository ``OWNER/NAME``, a version a commit.

``HF_ENDPOINT`` names another server than the public one, ``HF_TOKEN`` holds the key.
"""

import os
import shutil
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scfl_green.errors import InputError
from scfl_green.share.card import LIBRARY
from scfl_green.share.names import NAME
from scfl_green.share.registry import Entry, Files, in_one_line, unknown
from scfl_green.share.release import FILES


class Hub:
    """A push is one commit, which the Hub makes whole or not at all."""

    def __init__(self, owner: str) -> None:
        if find_spec("huggingface_hub") is None:
            raise InputError("hf: needs the Hub's client: pip install -c constraints.txt -e '.[share]'")
        if not NAME.fullmatch(owner):
            raise InputError(f"hf:{ascii(owner)[:60]}: an account or organisation is expected, such as hf:my-lab")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

        self.owner, self.api = owner, HfApi(os.environ.get("HF_ENDPOINT"), library_name=LIBRARY)
        self.missing = (RepositoryNotFoundError, RevisionNotFoundError)
        # Of its HTTP client too, which has no other base in common.
        self.errors = (HfHubHTTPError, OSError, ValueError, *_transport_errors())

    def push(self, folder: Path, name: str, metadata: Mapping[str, Any]) -> str:
        from huggingface_hub import CommitOperationAdd

        with in_one_line(f"hf:{self.owner}", *self.errors):
            self.api.create_repo(f"{self.owner}/{name}", exist_ok=True)
            # Not upload_folder, which may take several commits.
            files = [CommitOperationAdd(file, folder / file) for file in FILES]
            commit = self.api.create_commit(f"{self.owner}/{name}", files, commit_message=f"Share {name}")
            return str(commit.oid)

    def entries(self) -> list[Entry]:
        with in_one_line(f"hf:{self.owner}", *self.errors):
            found = list(self.api.list_models(author=self.owner, filter=LIBRARY, expand=["cardData", "sha"]))
        named = [(model.id.rpartition("/")[2], model) for model in found]
        return [
            Entry(name, str(model.sha), model.card_data.to_dict() if model.card_data else {})
            for name, model in named
            if NAME.fullmatch(name)
        ]

    def look_up(self, name: str, version: str | None) -> Files:
        with in_one_line(f"hf:{self.owner}", *self.errors):
            try:
                found = self.api.model_info(f"{self.owner}/{name}", revision=version, files_metadata=True)
            except self.missing:
                known = {entry.name: [entry.version] for entry in self.entries()}
                raise unknown(name, version, f"hf:{self.owner}", known) from None
        sizes = {file.rfilename: file.size for file in found.siblings or () if file.size is not None}
        return Files(str(found.sha), sizes)

    def download(self, name: str, version: str, into: Path) -> None:
        with in_one_line(f"hf:{self.owner}", *self.errors):
            self.api.snapshot_download(
                f"{self.owner}/{name}", revision=version, local_dir=into, allow_patterns=list(FILES)
            )
        shutil.rmtree(into / ".cache", ignore_errors=True)  # the client's notes on what it fetched


def _transport_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.utils import get_session

    # httpx or its successor, by the version of the client.
    module = import_module(type(get_session()).__module__.partition(".")[0])
    return (module.HTTPError,)
