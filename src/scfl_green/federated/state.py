"""What a site keeps between messages: the weights that it holds, and what its codes have left out."""

from collections.abc import Mapping
from weakref import WeakValueDictionary

from flwr.app import ArrayRecord, ConfigRecord, Context

from scfl_green.federated.once import NAME
from scfl_green.training.hooks import State

# The sites of a simulation share what all of them hold.
_HELD: WeakValueDictionary[str, ArrayRecord] = WeakValueDictionary()
# In the context's state.
WEIGHTS, LEFT, HASH = "weights", "left-out", "weights-hash"


def site_state(context: Context) -> State:
    """What a site keeps, for the checkpoint of a simulation; its weights are the server's business, too."""
    if HASH not in context.state:
        return {}
    left = dict(context.state[LEFT].to_torch_state_dict()) if LEFT in context.state else {}
    return {"hash": context.state[HASH][NAME], "left": left}


def load_site_state(context: Context, state: State, weights: Mapping[str, ArrayRecord]) -> None:
    """Restore a site from its state and the ``weights`` by hash; without these, it holds nothing."""
    if state and state["hash"] in weights:
        hold(context, state["hash"], weights[state["hash"]])
        context.state[LEFT] = ArrayRecord(state["left"])


def hold(context: Context, name: str, weights: ArrayRecord) -> None:
    """Keep weights in a site's state."""
    context.state[WEIGHTS] = _HELD.setdefault(name, weights)
    context.state[HASH] = ConfigRecord({NAME: name})
