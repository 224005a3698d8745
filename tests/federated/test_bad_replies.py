"""One bad site never harms the others: real messages, one client of four replies badly in one round."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx, Strategy

from conftest import compose_config
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.grid import LocalGrid
from scfl_green.federated.strategy import CheckedStrategy, QuorumError
from scfl_green.runs.run import run

ONE = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
CELLS = {1: 30.0, 2: 50.0, 3: 20.0, 4: 70.0}
BAD, ROUNDS = 3, 3
START = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 7, "a.bias": np.ones(3, dtype=np.float32)}


class Dropping(LocalGrid):
    """A network that loses the bad client's messages in round 2: what every bad reply must be equal to."""

    lost = False

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for reply in super().send_and_receive(messages, timeout=timeout):
            if not (self.lost and reply.metadata.src_node_id == BAD and self.round == 2):
                yield reply


def learnt(node: int, round_number: int, arrays: ArrayRecord) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([node, round_number])
    return {k: (a.numpy() * 0.9 + rng.normal(size=a.shape)).astype(np.float32) for k, a in arrays.items()}


Content = dict[str, ArrayRecord | MetricRecord | ConfigRecord]


def federate(
    meter: EnergyMeter,
    spoil: Callable[[Content], Content] | None,
    strategy: Strategy,
    lost: bool = False,
    min_clients: int | None = 3,
) -> tuple[dict[str, np.ndarray], CheckedStrategy]:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        node, round_number = context.node_id, int(message.content["config"]["server-round"])
        grid.round = round_number
        arrays = ArrayRecord({k: Array(v) for k, v in learnt(node, round_number, message.content["arrays"]).items()})
        metrics = MetricRecord({"num-examples": CELLS[node], "train/loss": 0.5})
        content: Content = {"arrays": arrays, "metrics": metrics}
        if spoil is not None and node == BAD and round_number == 2:
            content = spoil(content)
        return Message(RecordDict(content), reply_to=message)

    grid = Dropping(app, ["a", "b", "c", "d"], meter)
    grid.lost = lost
    checked = CheckedStrategy(strategy, evaluate=False, min_clients=min_clients)
    checked.cells = dict(CELLS)
    start = ArrayRecord({name: Array(value) for name, value in START.items()})
    result = checked.start(grid, start, num_rounds=ROUNDS)
    return {name: array.numpy() for name, array in result.arrays.items()}, checked


def arrays(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Callable[[Content], Content]:
    def spoil(content: Content) -> Content:
        values = {name: array.numpy().copy() for name, array in content["arrays"].items()}
        return content | {"arrays": ArrayRecord({name: Array(value) for name, value in change(values).items()})}

    return spoil


def one_value(value: float) -> Callable[[Content], Content]:
    def change(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        values["a.weight"][1, 2] = value
        return values

    return arrays(change)


def metrics(**changed: object) -> Callable[[Content], Content]:
    def spoil(content: Content) -> Content:
        values = dict(content["metrics"]) | {name.replace("_", "-"): value for name, value in changed.items()}
        return content | {"metrics": MetricRecord({k: v for k, v in values.items() if v is not None})}

    return spoil


def data(change: Callable[[bytes], bytes], **declared: object) -> Callable[[Content], Content]:
    """The bytes of an array, changed behind what it declares."""

    def spoil(content: Content) -> Content:
        record = dict(content["arrays"].items())
        old = record["a.weight"]
        about = {"dtype": old.dtype, "shape": list(old.shape), "stype": old.stype} | declared
        record["a.weight"] = Array(data=change(old.data), **about)
        return content | {"arrays": ArrayRecord(record)}

    return spoil


def npy(shape: tuple[int, ...], dtype: str = "<f4") -> Callable[[bytes], bytes]:
    """A header that tells of another shape, before the same values."""

    def change(old: bytes) -> bytes:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        return file.getvalue() + old[-48:]

    return change


def pickled(_: bytes) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([[print] * 4] * 3, dtype=object), allow_pickle=True)
    return file.getvalue()


def raises(content: Content) -> Content:
    raise RuntimeError("/data/patients/miller_jane.h5ad")


KINDS: dict[str, Callable[[Content], Content]] = {
    "an exception": raises,
    "NaN in one weight": one_value(np.nan),
    "infinity in one weight": one_value(np.inf),
    "minus infinity": one_value(-np.inf),
    "all NaN": arrays(lambda v: {k: np.full_like(a, np.nan) for k, a in v.items()}),
    "weights x 1e30": arrays(lambda v: {k: a * np.float32(1e30) for k, a in v.items()}),
    "count NaN": metrics(num_examples=float("nan")),
    "count infinite": metrics(num_examples=float("inf")),
    "count 0": metrics(num_examples=0),
    "count negative": metrics(num_examples=-20),
    "count 1e15": metrics(num_examples=10**15),
    "count above what was told": metrics(num_examples=21),
    "count missing": metrics(num_examples=None),
    "count a list": metrics(num_examples=[20.0, 20.0]),
    "float16": arrays(lambda v: {k: a.astype(np.float16) for k, a in v.items()}),
    "float64": arrays(lambda v: {k: a.astype(np.float64) for k, a in v.items()}),
    "int32": arrays(lambda v: {k: a.astype(np.int32) for k, a in v.items()}),
    "complex": arrays(lambda v: {k: a.astype(np.complex64) for k, a in v.items()}),
    "broadcastable (1, n)": arrays(lambda v: v | {"a.weight": v["a.weight"][:1]}),
    "0-d": arrays(lambda v: v | {"a.bias": v["a.bias"].sum()}),
    "transposed": arrays(lambda v: v | {"a.weight": np.ascontiguousarray(v["a.weight"].T)}),
    "flat": arrays(lambda v: v | {"a.weight": v["a.weight"].ravel()}),
    "an extra array": arrays(lambda v: v | {"b": np.ones(2, dtype=np.float32)}),
    "a missing array": arrays(lambda v: {"a.weight": v["a.weight"]}),
    "a renamed array": arrays(lambda v: {"a.weight": v["a.weight"], "a.biases": v["a.bias"]}),
    "no arrays": arrays(lambda v: {}),
    "no record of arrays": lambda content: {"metrics": content["metrics"]},
    "no record of metrics": lambda content: {"arrays": content["arrays"]},
    "nothing": lambda content: {},
    "two records of arrays": lambda content: content | {"more": content["arrays"]},
    "two records of metrics": lambda content: content | {"more": content["metrics"]},
    "an extra metric": metrics(surprise=1.0),
    "a missing metric": lambda content: content | {"metrics": MetricRecord({"num-examples": 20.0})},
    "a metric that is NaN": lambda c: c | {"metrics": MetricRecord({"num-examples": 20.0, "train/loss": float("nan")})},
    "a metric that is a list": lambda c: c | {"metrics": MetricRecord({"num-examples": 20.0, "train/loss": [0.5]})},
    "truncated data": data(lambda old: old[:-5]),
    "no data": data(lambda old: b""),
    "a truncated header": data(lambda old: old[:20]),
    "a header of garbage": data(lambda old: b"\x93NUMPY\x01\x00\xff\xff" + old[10:]),
    "a header of another shape": data(npy((4, 3))),
    "a header that asks for 745 GiB": data(npy((100_000, 2_000_000))),
    "a declaration of 745 GiB": data(npy((100_000, 2_000_000)), shape=[100_000, 2_000_000]),
    "a header of another type": data(npy((3, 4), "<i4")),
    "objects": data(pickled),
    "another serialisation": data(lambda old: old, stype="pickle"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_reply_is_as_if_there_had_been_none(meter: EnergyMeter, kind: str) -> None:
    expected, _ = federate(meter, None, FedAvg(**ONE), lost=True)
    result, checked = federate(meter, KINDS[kind], FedAvg(**ONE))
    for name in START:
        np.testing.assert_array_equal(result[name], expected[name])
    assert [(refusal.round, refusal.client) for refusal in checked.refused] == [(2, BAD)] * 1
    assert checked.clients_by_round == {1: 4, 2: 3, 3: 4}
    assert "miller" not in checked.refused[0].reason


@pytest.mark.parametrize("make", [lambda: FedProx(proximal_mu=0.1, **ONE), lambda: FedAdam(**ONE)])
@pytest.mark.parametrize("kind", ["NaN in one weight", "an exception", "count 1e15", "a renamed array"])
def test_any_strategy_bears_it(meter: EnergyMeter, kind: str, make: Callable[[], Strategy]) -> None:
    expected, _ = federate(meter, None, make(), lost=True)
    result, _ = federate(meter, KINDS[kind], make())
    for name in START:
        np.testing.assert_array_equal(result[name], expected[name])


def test_arrays_are_known_by_name_not_by_order(meter: EnergyMeter) -> None:
    turned, checked = federate(meter, arrays(lambda v: dict(reversed(v.items()))), FedAvg(**ONE))
    whole, _ = federate(meter, None, FedAvg(**ONE))
    assert checked.refused == []
    for name in START:
        np.testing.assert_array_equal(turned[name], whole[name])


def test_what_is_expected_is_the_mean_of_the_others(meter: EnergyMeter) -> None:
    result, checked = federate(meter, None, FedAvg(**ONE), lost=True)
    weights = {name: value.copy() for name, value in START.items()}
    for round_number in range(1, ROUNDS + 1):
        nodes = [node for node in CELLS if (node, round_number) != (BAD, 2)]
        record = ArrayRecord({name: Array(value) for name, value in weights.items()})
        replies = [learnt(node, round_number, record) for node in nodes]
        cells = [CELLS[node] for node in nodes]
        for name in weights:
            stacked = np.stack([reply[name] for reply in replies]).astype(np.float64)
            weights[name] = np.average(stacked, axis=0, weights=cells).astype(np.float32)
    for name in START:
        np.testing.assert_allclose(result[name], weights[name], rtol=1e-6)
    assert checked.clients_by_round == {1: 4, 2: 3, 3: 4}


def test_below_the_quorum_a_round_is_asked_again_and_then_the_run_ends(meter: EnergyMeter) -> None:
    calls = []

    def once(content: Content) -> Content:
        calls.append(1)
        return KINDS["all NaN"](content) if len(calls) == 1 else content

    whole, _ = federate(meter, None, FedAvg(**ONE))
    again, _ = federate(meter, once, FedAvg(**ONE), min_clients=None)
    for name in START:
        np.testing.assert_array_equal(again[name], whole[name])
    with pytest.raises(QuorumError, match=r"round 2: 3 of 4 clients replied well, 4 are needed .* client 3: a\.weight"):
        federate(meter, KINDS["all NaN"], FedAvg(**ONE), min_clients=None)


def test_a_run_without_its_quorum_leaves_the_last_good_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: Cells
) -> None:
    from scfl_green.training.job import Job

    fit = Job.fit

    def sometimes(self: Job, part, weights, **more):  # type: ignore[no-untyped-def]
        if part.name == "Muraro et al. 2016" and more.get("round_number") == 2:
            raise RuntimeError("cells of patient 7")
        return fit(self, part, weights, **more)

    monkeypatch.setattr(Job, "fit", sometimes)
    quick = ["federation.rounds=3", "federation.local_epochs=1", "data.n_genes=100", "logger=none", "trainer=cpu"]
    with pytest.raises(ValueError, match="3 of 4 clients replied well") as raised:
        run(compose_config(tmp_path / "all", *quick))
    assert "patient" not in str(raised.value)
    assert not (tmp_path / "all/run/result.json").exists()
    assert (tmp_path / "all/run/weights.safetensors").exists()
    record = run(compose_config(tmp_path / "three", "federation.min_clients=3", *quick))
    assert record["clients_by_round"] == [4, 3, 4]
    assert record["refused"] == ["round 2, Muraro et al. 2016: error 2"]
