"""What befalls a deployed federation, on real servers, sites and runs, which really train."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
from hospitals import SHORT, Hospital, Run, hashed
from loop import studies
from processes import Server, until

from conftest import compose_config
from scfl_green.runs.run import run
from scfl_green.sites.control import control

pytestmark = pytest.mark.deployed
# For what a quiet machine does in seconds.
PATIENT, IMPATIENT = "federation.timeout_seconds=150", "federation.timeout_seconds=20"
ANY = "federation.min_clients=1"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    server = Server(home / "federation")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def files(home: Path) -> dict[str, Path]:
    """The two smallest studies."""
    (home / "studies").mkdir()
    every = studies(home / "studies")
    return {name: every[name] for name in ("muraro", "tritschler")}


@pytest.fixture(scope="module")
def sites(server: Server, files: dict[str, Path]) -> Iterator[dict[str, Hospital]]:
    sites = {name: Hospital(server, path) for name, path in files.items()}
    yield {name: site.connected() for name, site in sites.items()}
    for site in sites.values():
        assert site.stop() == 0


@pytest.fixture(scope="module")
def simulated(home: Path, files: dict[str, Path]) -> str:
    """The weights of the simulation of the same files."""
    paths = f"data.path=[{','.join(map(str, files.values()))}]"
    run(compose_config(home / "simulated", *SHORT, "data=h5ad", paths))
    return hashed(home / "simulated/run/weights.safetensors")


def test_undisturbed_it_trains_what_the_simulation_trains_and_each_site_can_use_it(
    home: Path, server: Server, sites: dict[str, Hospital], simulated: str
) -> None:
    assert Run(home / "undisturbed", server).weights() == simulated
    for site in sites.values():
        assert site.kept() == {simulated}
        assert site.is_whole()
    (model,) = (sites["tritschler"].folder / "models").iterdir()
    command = [sys.executable, "-m", "scfl_green", "annotate", str(model), str(sites["tritschler"].cells)]
    subprocess.run([*command, "-o", str(home / "annotated.h5ad")], check=True, capture_output=True)
    obs = ad.read_h5ad(home / "annotated.h5ad").obs
    assert (obs["scfl_label"].astype(str) == obs["cell_type"].astype(str)).mean() > 0.5


def test_a_site_whose_disk_is_full_ends_the_run_before_training_and_keeps_no_half_of_anything(
    home: Path, server: Server, sites: dict[str, Hospital]
) -> None:
    site = sites["muraro"]
    limit = resource.prlimit(site.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(site.process.pid, resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        full = Run(home / "full", server)
        assert full.ends() == (
            "error: asked to prepare, before training: muraro: OSError (why, is in the log of the site)"
        )
    finally:
        resource.prlimit(site.process.pid, resource.RLIMIT_FSIZE, limit)
    assert full.files() == []
    assert site.is_whole()
    assert "File too large" in site.out.read_text() or "written" in site.out.read_text()


def test_a_superlink_that_is_killed_changes_no_bit(
    home: Path, server: Server, sites: dict[str, Hospital], simulated: str
) -> None:
    run = Run(home / "superlink", server)
    run.until_round(1)
    (killed := server.superlink).kill()
    assert run.weights() == simulated
    assert server.superlink.pid != killed.pid
    assert run.record()["clients_by_round"] == [2, 2, 2]


def test_a_run_that_was_killed_goes_on_to_the_bit_but_not_with_other_cells(
    home: Path, server: Server, sites: dict[str, Hospital], simulated: str
) -> None:
    run, site = Run(home / "killed", server), sites["muraro"]
    run.until_round(1)
    run.kill()
    done = max(int(path.name) for path in run.folder.glob("checkpoints/*/[0-9]*"))
    assert done < 3
    before = site.cells.read_bytes()
    ad.AnnData.write_h5ad(ad.read_h5ad(site.cells)[20:].copy(), site.cells)
    run.start()
    told = run.ends()
    assert told.startswith("error: since this run was killed, sites have changed their cells")
    assert "(other numbers of cells: muraro)" in told
    assert not (run.folder / "result.json").exists()
    assert site.trained_in() == []
    site.cells.write_bytes(before)
    run.start()
    assert run.weights() == simulated
    assert f"resuming after round {done}" in run.out.read_text()
    assert site.trained_in() == [*range(done + 1, 4)]
    assert pd.read_csv(run.folder / "metrics.csv")["round"].tolist() == [1, 2, 3]
    with control(server.settings) as calls:
        assert {one.status.status for one in calls.runs()} == {"finished"}


def test_a_site_that_is_killed_while_it_trains_is_asked_again_when_it_is_back(
    home: Path, server: Server, sites: dict[str, Hospital]
) -> None:
    slow = "federation.local_epochs=20", "data.batch_size=1"  # seconds, for a site of 119 cells
    run, site = Run(home / "site", server, PATIENT, *slow), sites["tritschler"]
    until(lambda: site.busy("train"), what=run.out.read_text(), poll_seconds=0.005)
    site.kill()
    assert site.busy("train")
    assert site.is_whole()
    site.start()
    record = run.record()
    assert record["clients_by_round"] == [2, 2, 2]
    assert record["refused"] == []
    assert run.weights() in site.kept()
    assert set(site.trained_in()) == {1, 2, 3}


def test_a_site_that_is_late_is_waited_for_and_one_that_hangs_is_left_out_until_it_is_back(
    home: Path, server: Server, sites: dict[str, Hospital]
) -> None:
    late = sites["tritschler"]
    assert late.stop() == 0
    none = Run(home / "none", server, "sites.wait_seconds=1")
    assert none.ends().startswith("error: sites that are not connected after 1 s: tritschler; start them there")
    assert none.files() == []
    run = Run(home / "late", server, ANY, IMPATIENT, "sites.wait_seconds=150")
    until(lambda: server.is_used())
    late.start()
    run.until_round(1)
    late.process.send_signal(signal.SIGSTOP)
    try:
        run.until_round(2)
    finally:
        late.process.send_signal(signal.SIGCONT)
    record = run.record()
    assert record["clients_by_round"] == [2, 1, 2]
    assert run.weights() in late.kept()
