"""Questions to sites before training, and the sizes of all messages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scfl_green.data.wire import Arrays, sizes

# The kinds of questions before training, in this order.
TELL, GENES, AGREE, SUMS, PREPARE = "tell", "genes", "agree", "sums", "prepare"
# Puts a question of a kind to sites, to each its own, by name; answers by name.
Ask = Callable[[str, Mapping[str, Arrays]], Mapping[str, Arrays]]


@dataclass
class Survey:
    """Puts questions to sites before training; ``sizes`` are those of all questions and answers so far, in bytes."""

    ask: Ask
    names: Sequence[str]
    sizes: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, kind: str, questions: Mapping[str, Arrays]) -> Mapping[str, Arrays]:
        answers = self.ask(kind, questions)
        # Sites that do not answer, where that is allowed, are asked nothing more.
        self.names = [name for name in self.names if name in answers or name not in questions]
        sent = {name: (sizes(questions[name]), sizes(answer)) for name, answer in answers.items()}
        self.sizes.append({"kind": kind, "sent": sent})
        return answers

    def all(self, kind: str, question: Arrays, names: Sequence[str] | None = None) -> Mapping[str, Arrays]:
        """Put the same question to all sites, or those named."""
        return self(kind, dict.fromkeys(self.names if names is None else names, question))
