"""Downloads published files once: resolved, streamed, resumed after a break, verified."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
from requests.adapters import HTTPAdapter
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from urllib3.util import Retry

from scfl_green.errors import InputError

TIMEOUT_SECONDS = (10, 60)
# Tries of a broken transfer in one run; a partial download is kept for the next run.
ATTEMPTS = 5


@dataclass(frozen=True)
class Asset:
    """A file as announced by its publisher; None if not announced."""

    url: str
    size: int | None = None
    sha256: str | None = None


class GoneError(Exception):
    """The address no longer holds the file."""


def cellxgene(collection: str, dataset: str, api: str) -> Asset:
    """Look up the h5ad file of a CELLxGENE dataset by id (curation API, ``GET /collections/<id>``), since addresses
    change with every schema migration."""
    response = _get(f"{api}/collections/{collection}")
    for entry in response["datasets"]:
        if entry["dataset_id"] == dataset:
            for asset in entry["assets"]:
                if asset["filetype"] == "H5AD":
                    return Asset(asset["url"], asset["filesize"])
    raise InputError(f"{api}: collection {collection} has no h5ad file of dataset {dataset}; set data.path=FILE.h5ad")


def github_release(repository: str, tag: str, name_contains: str, api: str) -> Asset:
    """Look up the file of a GitHub release whose name contains ``name_contains``."""
    response = _get(f"{api}/repos/{repository}/releases/tags/{tag}")
    for asset in response["assets"]:
        if name_contains.lower() in asset["name"].lower():
            digest = (asset.get("digest") or "").removeprefix("sha256:")
            return Asset(asset["browser_download_url"], asset["size"], digest or None)
    names = ", ".join(asset["name"] for asset in response["assets"])
    raise InputError(f"{repository} {tag}: no file named *{name_contains}*, but {names}; set data.path=FILE.h5ad")


def download(to: Path, *, resolve: Callable[[], Asset], expected: str, sha256: str | None = None) -> None:
    """Download the asset that ``resolve`` finds to the path ``to``, which appears whole and verified or not at all.

    ``expected`` describes the file to the user; ``sha256`` pins its content. An address that has gone meanwhile is
    resolved once more. If the download fails, InputError names the address, the expected size and ``data.path=``.
    """
    asset: Asset | None = None
    try:
        for last in (False, True):
            asset = resolve()
            try:
                _retrieve(asset, to, sha256 or asset.sha256)
                return
            except GoneError:
                if last:
                    raise
    except (requests.RequestException, GoneError, OSError, ValueError, KeyError, TypeError) as error:
        size = f"{asset.size / 1e6:,.1f} MB" if asset and asset.size else "size unknown"
        source = f" from {asset.url}" if asset else ""
        why = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, requests.ConnectionError) and error.request is not None:
            why = f"no connection to {error.request.url}"
        raise InputError(
            f"could not fetch {to.stem}{source} ({expected}, {size}): {why}. Start again once online, a partial "
            f"download is kept; or set data.path=FILE.h5ad, or put {to.stem}.h5ad in the folder that SCFL_DATA names"
        ) from None


def _retrieve(asset: Asset, to: Path, sha256: str | None) -> None:
    pooch.utils.LOGGER.setLevel("ERROR")
    pooch.retrieve(
        asset.url,
        f"sha256:{sha256}" if sha256 else None,
        fname=to.name,
        path=to.parent,
        downloader=_Resuming(asset, to),
    )


class _Resuming:
    """A pooch downloader that resumes a broken transfer, within a run and in later runs."""

    def __init__(self, asset: Asset, to: Path) -> None:
        self.asset, self.name, self.part = asset, to.name, to.with_name(f".{to.name}.part")
        # Identifies the announced file, so that another file's part is not resumed.
        self.mark = to.with_name(f".{to.name}.part.json")

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        about = json.dumps(vars(self.asset))
        if not self.mark.exists() or self.mark.read_text() != about:
            self.part.unlink(missing_ok=True)
            self.mark.write_text(about)
        with _session() as session, _bar(self.name, self.asset.size) as advance:
            for attempt in range(ATTEMPTS):
                before = self._arrived()
                try:
                    self._fetch(session, url, advance)
                    break
                except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                    # Try again only as long as data arrives.
                    if attempt == ATTEMPTS - 1 or self._arrived() == before:
                        raise
        size = self.part.stat().st_size
        if self.asset.size is not None and size != self.asset.size:
            self.part.unlink()
            raise ValueError(f"{size:,} bytes arrived where {self.asset.size:,} were announced")
        self.part.replace(output_file)
        self.mark.unlink()

    def _arrived(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _fetch(self, session: requests.Session, url: str, advance: Callable[[int], None]) -> None:
        have = self._arrived()
        if have and have == self.asset.size:
            return
        # No compression: a decoded body could not be resumed.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
            if response.status_code in (403, 404, 410):
                raise GoneError(f"{response.status_code} at {url}")
            if response.status_code == 416:  # the part is not a beginning of this file
                self.part.unlink()
                raise requests.ConnectionError(f"{url} cannot be resumed at {have:,} bytes")
            response.raise_for_status()
            resumed = response.status_code == 206
            announced = response.headers.get("Content-Length")
            advance(have if resumed else 0)
            with self.part.open("ab" if resumed else "wb") as file:
                for chunk in response.iter_content(1 << 16):
                    file.write(chunk)
                    advance(file.tell())
                arrived = file.tell() - (have if resumed else 0)
            if announced is not None and arrived < int(announced):
                raise requests.ConnectionError(f"{url} broke off after {arrived:,} of {int(announced):,} bytes")


def _get(url: str) -> dict[str, Any]:
    with _session() as session:
        response = session.get(url, timeout=TIMEOUT_SECONDS)
        response.raise_for_status()
        return response.json()


def _session() -> requests.Session:
    session = requests.Session()
    retry = Retry(
        total=4, connect=1, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


@contextmanager
def _bar(name: str, size: int | None) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(name, total=size)
        yield lambda arrived: progress.update(task, completed=arrived)
