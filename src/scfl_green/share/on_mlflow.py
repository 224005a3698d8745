"""MLflow's model registry (``mlflow:URI``, by default ``MLFLOW_TRACKING_URI``), by its own client."""

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scfl_green.errors import InputError
from scfl_green.share.names import NAME
from scfl_green.share.received import LARGEST
from scfl_green.share.registry import Entry, Files, in_one_line, unknown
from scfl_green.share.release import CARD

# Else MLflow reports usage to its authors, prints progress, and tries a server for minutes; what you set yourself wins.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
EXPERIMENT = "scfl-green models"
# MLflow would fill these in, with the account's name and the command line.
ANONYMOUS = {"mlflow.user": "-", "mlflow.source.name": "scfl-green", "mlflow.source.type": "LOCAL"}
METADATA = "scfl-green"
LONGEST_TAG = 5000


class MLflow:
    """A version is made after all its files have been stored, so that a push that is killed leaves none."""

    def __init__(self, uri: str) -> None:
        if find_spec("mlflow") is None:
            raise InputError("mlflow: needs MLflow: pip install -c constraints.txt -e '.[share]'")
        if not (uri := uri or os.environ.get("MLFLOW_TRACKING_URI", "")):
            raise InputError(
                "mlflow: name its server, such as mlflow:http://127.0.0.1:5000, or set MLFLOW_TRACKING_URI"
            )
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self.uri, self.errors = uri, (MlflowException, OSError)
        with in_one_line(f"mlflow:{uri}", *self.errors):
            self.client = MlflowClient(uri, uri)

    def push(self, folder: Path, name: str, metadata: Mapping[str, Any]) -> str:
        from mlflow.exceptions import MlflowException

        client = self.client
        with in_one_line(f"mlflow:{self.uri}", *self.errors):
            found = client.get_experiment_by_name(EXPERIMENT)
            run = client.create_run(
                found.experiment_id if found else client.create_experiment(EXPERIMENT), tags=ANONYMOUS, run_name=name
            )
            client.log_artifacts(run.info.run_id, str(folder))
            for score in _scores(metadata):
                client.log_metric(run.info.run_id, *score)
            client.set_terminated(run.info.run_id)
            page = (folder / CARD).read_text().partition("\n---\n")[2].strip()
            try:
                client.create_registered_model(name, description=page)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            version = client.create_model_version(
                name, run.info.artifact_uri, run.info.run_id, tags=_tags(metadata), description=page
            )
            client.update_registered_model(name, description=page)
            return str(version.version)

    def entries(self) -> list[Entry]:
        found: list[Any] = []
        token = None
        with in_one_line(f"mlflow:{self.uri}", *self.errors):
            while token != "":
                page = self.client.search_model_versions(max_results=1000, page_token=token)
                found, token = found + list(page), page.token or ""
        ours = [version for version in found if f"{METADATA}.0" in version.tags and NAME.fullmatch(version.name)]
        ours.sort(key=lambda version: (version.name, int(version.version)))
        return [Entry(version.name, str(version.version), _metadata(version.tags)) for version in ours]

    def look_up(self, name: str, version: str | None) -> Files:
        known: dict[str, list[str]] = {}
        for entry in self.entries():
            known.setdefault(entry.name, []).append(entry.version)
        version = version or known.get(name, [None])[-1]
        if version is None or version not in known.get(name, ()):
            raise unknown(name, version, f"mlflow:{self.uri}", known)
        with in_one_line(f"mlflow:{self.uri}", *self.errors):
            files = self.client.list_artifacts(self._run(name, version))
        return Files(version, {file.path: file.file_size for file in files if file.file_size is not None})

    def download(self, name: str, version: str, into: Path) -> None:
        with in_one_line(f"mlflow:{self.uri}", *self.errors):
            for file in LARGEST:
                self.client.download_artifacts(self._run(name, version), file, str(into))

    def _run(self, name: str, version: str) -> str:
        """The run whose artifacts are the files of a version."""
        return self.client.get_model_version(name, version).run_id or ""


def _scores(metadata: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What MLflow's page compares models by."""
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    grams = metadata["co2_eq_emissions"]["emissions"]
    return [*((metric["name"].replace(" ", "_"), metric["value"]) for metric in metrics), ("co2eq_g", grams)]


def _tags(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The metadata, in pieces that a tag can hold, and what to search by on MLflow's page."""
    text = json.dumps(metadata, allow_nan=False)
    pieces = [text[start : start + LONGEST_TAG] for start in range(0, len(text), LONGEST_TAG)]
    shown = {key: str(metadata[key]) for key in ("tissue", "species", "license") if key in metadata}
    grams = f"{metadata['co2_eq_emissions']['emissions']:.3g}"
    return shown | {"co2eq_g": grams} | {f"{METADATA}.{number}": piece for number, piece in enumerate(pieces)}


def _metadata(tags: Mapping[str, str]) -> dict[str, Any]:
    try:
        pieces = [tags[f"{METADATA}.{number}"] for number in range(sum(tag.startswith(f"{METADATA}.") for tag in tags))]
        found = json.loads("".join(pieces))
        return found if isinstance(found, dict) else {}
    except (ValueError, KeyError):
        return {}
