"""A site's side of masked sums: its key, its masked answers, and what it reveals of its masks afterwards."""

import json
import os
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flwr.supercore.primitives.asymmetric import sign_message

from scfl_green.errors import InputError
from scfl_green.federated.consent import Consent, RefusedError, signed_text
from scfl_green.federated.masks import BYTES, SITES, Arrays, Question, sign_of, stream

MASK, CONSENT = "mask", "consent"


@dataclass(frozen=True)
class SiteKey:
    """A site's X25519 key pair for one federation, in memory only. ``told``: the public key (32 bytes), and after it
    the signature of the node's long-term key if there is one."""

    private: X25519PrivateKey
    told: bytes

    @classmethod
    def new(cls, agreement: str, site: str, node_key: EllipticCurvePrivateKey | None = None) -> "SiteKey":
        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        signature = b"" if node_key is None else sign_message(node_key, signed_text(agreement, site, public))
        return cls(private, public + signature)

    def shared_with(self, told: bytes, digest: bytes, *purpose: object) -> bytes:
        """A secret (32 bytes) of this site and another, for one question and purpose; RefusedError for no key."""
        try:
            secret = self.private.exchange(X25519PublicKey.from_public_bytes(told[:BYTES]))
        except ValueError as error:
            raise RefusedError("a key that is none") from error
        info = b"scfl-green masked sums" + digest + json.dumps(purpose).encode()
        return HKDF(SHA256(), BYTES, salt=None, info=info).derive(secret)


@dataclass
class Masker:
    """Answers the masked questions of one federation for the site ``name``."""

    name: str
    key: SiteKey
    consent: Consent = field(default_factory=Consent)
    # The hash of the question answered last, and the seed of the mask that is this site's own.
    last: tuple[bytes, bytes] = (b"", b"")

    def masked(self, question: Question, arrays: Arrays) -> dict[str, np.ndarray]:
        """The arrays under masks, packed (uint8, by name); RefusedError for what this site does not consent to.

        InputError for arrays of another form: a number out of range would spoil the sum unnoticed. Every call draws a
        mask of its own, so that two answers to one question tell no difference."""
        for name, span in question.form.items():
            if name not in arrays or not span.holds(arrays[name]):
                raise InputError(f"{name}: its sums are not integers from {span.low} to {span.high}, as was agreed")
        self.consent.to_answer(question, self.name, self.key.told)
        own = os.urandom(BYTES)
        # int64 and uint64 of the same bits are the same number modulo 2**64.
        total = {name: arrays[name].astype(np.int64).view(np.uint64) for name in question.form}
        total[SITES] = np.ones(1, np.uint64)
        pairs = {peer: self._mask(question, peer) for peer in self._peers(question)}
        for seed, sign in [(own, 1), *((pairs[peer], sign_of(self.name, peer)) for peer in pairs)]:
            for name, mask in stream(seed, question.full):
                total[name] = total[name] + mask if sign > 0 else total[name] - mask
        self.last = question.digest, own
        return {name: span.packed(total[name]) for name, span in question.full.items()}

    def reveal(self, question: Question, answered: Collection[str]) -> np.ndarray:
        """What the server needs of this site for the sum over those that ``answered`` (sites of the question in order
        of name x 32, uint8): by its row, the site's own mask, hidden until all that answered have consented; of those
        that answered the consent to theirs; of the others the mask shared with them.

        Once for each answer, and again only for the same sites; RefusedError for anything else."""
        digest, own = self.last
        if digest != question.digest:
            raise RefusedError("asked to reveal the masks of a question other than the last answered")
        self.consent.to_reveal(question, self.name, answered)
        rows, hidden = {}, np.frombuffer(own, np.uint8)
        for peer in self._peers(question):
            if peer in answered:
                rows[peer] = self._shared(question, peer, CONSENT, peer, sorted(answered))
                consent = self._shared(question, peer, CONSENT, self.name, sorted(answered))
                hidden = hidden ^ np.frombuffer(consent, np.uint8)
            else:
                rows[peer] = self._mask(question, peer)
        rows[self.name] = hidden.tobytes()
        return np.frombuffer(b"".join(rows[name] for name in question.names), np.uint8).reshape(-1, BYTES)

    def _peers(self, question: Question) -> list[str]:
        return [name for name in question.names if name != self.name]

    def _mask(self, question: Question, peer: str) -> bytes:
        # Named, so that the masks of two peers would not cancel even if they had one key.
        return self._shared(question, peer, MASK, *sorted((self.name, peer)))

    def _shared(self, question: Question, peer: str, *purpose: object) -> bytes:
        return self.key.shared_with(question.keys[peer], question.digest, *purpose)
