"""What crosses the border of a hospital: every message, what is in it, and why. Nothing else does."""

from dataclasses import dataclass

from scfl_green.data.questions import AGREE, GENES, PREPARE, SUMS, TELL
from scfl_green.energy.ledger import CALIBRATE, TEST
from scfl_green.federated.secure import KEYS

# After training: the model that all have trained.
MODEL = "model"


@dataclass(frozen=True)
class Crossing:
    """A message of the server, and a site's answer: what they hold, and why they are needed."""

    message: str
    asks: str
    tells: str
    why: str


CROSSINGS = (
    Crossing(
        TELL,
        "settings of the run: network, optimiser, strategy, split, seed",
        "cell types with their numbers of cells (none below limits.fewest_told), Cell Ontology ids, number and hash of "
        "genes",
        "all train the same outputs",
    ),
    Crossing(GENES, "nothing", "names of genes; asked of one of the sites that have the same", "genes are matched"),
    Crossing(
        AGREE,
        "all cell types, and the place of each of the site's genes among all genes",
        "numbers of training, validation and test cells",
        "sites are averaged by their numbers of cells",
    ),
    Crossing(KEYS, "nothing", "a public key for masks, new for every run", "sums are masked (sites.masked)"),
    Crossing(
        SUMS,
        "which genes",
        "sums over training cells of normalised counts, or their logarithms by cell type, and of squares: by gene; "
        "under masks, then what all have to reveal for their sum",
        "genes are chosen and centred",
    ),
    Crossing(PREPARE, "chosen genes, their means and scales", "nothing", "all compute the same features"),
    Crossing(
        "train",
        "weights (a change of them, if coded)",
        "trained weights, loss and scores on training cells, energy used",
        "the federation learns",
    ),
    Crossing("evaluate", "weights", "loss and scores on validation cells, energy used", "progress is seen"),
    Crossing(
        CALIBRATE,
        "weights; then a temperature and sums of all sites",
        "sums over validation cells of log-likelihoods, sums of features and of their products by type, over training "
        "cells; then histograms of confidence and novelty; under masks, as above",
        "the model knows what it does not know",
    ),
    Crossing(
        TEST, "weights, a temperature", "the confusion matrix and a histogram of confidence of test cells", "scores"
    ),
    Crossing(MODEL, "weights and how to use them (model.json)", "nothing", "every site ends with the model"),
)
# A simulated site answers more.
ASKED = frozenset(crossing.message for crossing in CROSSINGS)
