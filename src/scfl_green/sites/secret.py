"""A site's side of sums that the server reads only over all sites."""

from collections.abc import Callable
from typing import Any

import numpy as np

from scfl_green.data.features.sums import GeneSums
from scfl_green.data.wire import Arrays, Packed, unpacked_text
from scfl_green.federated.masked_sums import Federated, gene_arrays
from scfl_green.federated.masker import Masker, SiteKey
from scfl_green.federated.secure import ANSWERED, DIGEST, MASKED, Masking, calibration_form, genes_form
from scfl_green.federated.site import DisagreementError
from scfl_green.federated.spans import Form
from scfl_green.models.calibration import BINS, histogram
from scfl_green.sites.limits import RefusedError

# Exact integers of an answer, and the form that both sides know of their sum.
Numbers = tuple[dict[str, np.ndarray], Callable[[Federated], Form]]


class Secret:
    """Masks the answers of the site ``name``, one masker for each federation; with ``only_masked``, it gives no other
    sums."""

    def __init__(self, name: str, only_masked: bool) -> None:
        self.name, self.only_masked = name, only_masked
        self.agreement = ""
        self.masker: Masker | None = None
        self.question: Any = None

    def key_for(self, question: Arrays) -> Packed:
        """The site's key for a federation: the same, if it is asked again."""
        agreement = str(unpacked_text(question["agreement"]))
        if self.masker is None or agreement != self.agreement:
            self.agreement, self.masker = agreement, Masker(self.name, SiteKey.new(agreement, self.name))
        return {"key": np.frombuffer(self.masker.key.told, np.uint8)}

    def answer(
        self, question: Arrays, plain: Callable[[Arrays], Arrays], numbers: Callable[[Arrays], Numbers]
    ) -> Arrays:
        """The ``plain`` answer; or its ``numbers`` under masks, if the question asks for that; or what the server needs
        to read the last one's sum."""
        if DIGEST in question:
            return {"reveal": self._reveal(question)}
        if MASKED not in question:
            if self.only_masked:
                raise RefusedError("sums over cells without masks, where limits.only_masked is set")
            return plain(question)
        asked = {name: array for name, array in question.items() if name != MASKED}
        masking = Masking.unpacked(question[MASKED])
        if self.masker is None or masking.agreement != self.agreement:
            raise DisagreementError("sums under masks before the keys were asked for")
        sums, form = numbers(asked)
        self.question = masking.question(asked, form)
        return self.masker.masked(self.question, sums)

    def _reveal(self, question: Arrays) -> np.ndarray:
        if self.masker is None or self.question is None or self.question.digest != question[DIGEST].tobytes():
            raise DisagreementError("asked for masks of another question than the last")
        return self.masker.reveal(self.question, [*map(str, unpacked_text(question[ANSWERED]))])


def gene_numbers(asked: Arrays, sums: GeneSums) -> Numbers:
    """Sums by gene as integers, and their form."""
    return gene_arrays(sums), genes_form(asked, len(sums.n), sums.values.shape[2])


def calibration_numbers(asked: Arrays, answer: Arrays) -> Numbers:
    """An answer to a question of ``training.calibrate`` as integers, histograms with every bin, and their form."""
    if not asked:
        return dict(answer), calibration_form(asked, *answer["linear"].shape)
    n_types = len(asked["n"])
    scores = histogram(answer["scores"].astype(np.int64), (n_types, BINS))
    novelty = histogram(answer["novelty"].astype(np.int64), (BINS,))
    return {"scores": scores, "novelty": novelty}, calibration_form(asked, n_types, 0)
