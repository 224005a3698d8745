"""What a site requires before it answers masked questions, and before it reveals how its masks cancel."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

from scfl_green.errors import InputError
from scfl_green.federated.masks import BYTES, Question


class RefusedError(ValueError):
    """A site does not do what it was asked for: the message says why, in names of sites and numbers only."""


@dataclass
class Consent:
    """The rules of one site in one federation, and what it remembers; keep it over restarts of the site's process.

    ``least_sites`` must be in any sum. One site's part in a sum is safe only if no other sum has it left out, so all
    sums of a federation are over the same sites, ``together``, which the first reveal settles; ``may_shrink`` allows
    fewer later, and whoever left is then known by subtraction. ``node_keys`` are the sites' long-term public keys (PEM)
    by name, from elsewhere than the server: with these, a key that the server has exchanged is noticed.
    """

    least_sites: int = 3
    most_attempts: int = 3
    may_shrink: bool = False
    node_keys: Mapping[str, bytes] | None = None
    together: frozenset[str] | None = None
    answered: dict[str, int] = field(default_factory=dict)
    revealed: dict[bytes, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.least_sites < 2:
            raise InputError(f"least_sites={self.least_sites}: a sum over one site is that site's; use 2 or more")

    def to_answer(self, question: Question, name: str, told: bytes) -> None:
        """RefusedError unless the site ``name``, which has told the key ``told``, may answer; counts the answer."""
        self._check_sites(question.keys)
        if question.keys.get(name) != told:
            raise RefusedError("its own key is not among those of the question")
        if len({key[:BYTES] for key in question.keys.values()}) < len(question.keys):
            raise RefusedError("two sites have the same key")
        for site, key in question.keys.items():
            self._check_key(question.agreement, site, key)
        if self.together is not None and not self.may_shrink and not self.together <= set(question.keys):
            raise RefusedError(f"asked of {len(question.keys)} sites that leave out some of those summed before")
        if question.digest in self.revealed:
            raise RefusedError("asked again what has been summed")
        done = self.answered.get(question.step, 0)
        if done >= self.most_attempts or not 1 <= question.attempt <= self.most_attempts:
            raise RefusedError(f"attempt {question.attempt} at {question.step}, after {done} answers")
        self.answered[question.step] = done + 1

    def to_reveal(self, question: Question, name: str, summed: Collection[str]) -> None:
        """RefusedError unless the site may reveal what a sum over ``summed`` needs; remembers them."""
        sites = frozenset(summed)
        self._check_sites(sites)
        if name not in sites or not sites <= set(question.keys) or len(sites) < len(summed):
            raise RefusedError("asked to reveal for a sum over other sites than those of the question")
        if self.revealed.get(question.digest, sites) != sites:
            raise RefusedError("asked to reveal the masks of one question for two sums")
        before = self.together
        if before not in (None, sites) and not (self.may_shrink and sites < before):
            raise RefusedError(f"a sum over {len(sites)} sites that are not those {len(before)} of before")
        self.together = self.revealed[question.digest] = sites

    def _check_sites(self, sites: Collection[str]) -> None:
        if len(sites) < self.least_sites:
            raise RefusedError(f"a sum over {len(sites)} sites, where at least {self.least_sites} are required")

    def _check_key(self, agreement: str, site: str, told: bytes) -> None:
        if self.node_keys is None:
            return
        if site not in self.node_keys:
            raise RefusedError(f"{site} has no known node key")
        public = bytes_to_public_key(self.node_keys[site])
        if not verify_signature(public, signed_text(agreement, site, told[:BYTES]), told[BYTES:]):
            raise RefusedError(f"the key of {site} is not signed by its node key")


def signed_text(agreement: str, site: str, public: bytes) -> bytes:
    """What a site signs when it tells its key."""
    return b"\0".join([b"scfl-green mask key", agreement.encode(), public.hex().encode(), site.encode()])
