"""A round of the federation, as the server plays it with clients that are elsewhere."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedgloss.algorithms.core import Named, mean
from fedgloss.engine.federation import round_facts
from fedgloss.engine.server import Server
from fedgloss.engine.start import prepared
from fedgloss.errors import InputError
from fedgloss.flower.deployment import Settled
from fedgloss.flower.exchange import Answer, Clients
from fedgloss.flower.log import LOG, Stopped, in_short
from fedgloss.flower.records import check_form, pack, size, unpack


class _Exchange(NamedTuple):
    """What was sent, and what came back."""

    down: Named
    """As the clients got it."""
    up: Named
    """Side by side, each [1, K, ...]."""
    h: Named
    """The facts of the round, as they are of those who answered."""
    ids: list[int]
    """Who answered."""
    lost: list[str]
    """A line for each of them who had lost its state."""
    gradients: float
    """Mini-batch gradients computed for each local step."""
    bytes_down: int
    bytes_up: int


class RemoteServer(Server):
    """A server whose clients are elsewhere.

    Beside its own state it knows the last round whose answer of each client counted, and says so in
    the next message, so that no client goes on from a state that the server never heard of.
    """

    def __init__(self, settled: Settled, measure: Sequence[str]) -> None:
        super().__init__(settled.federation.algorithm, settled.federation.w[None, None], measure)
        self.settled = settled
        self.counted = torch.full((len(settled.federation.data.indices),), -1, device="cpu")
        self.name = torch.frombuffer(bytearray(secrets.token_bytes(8)), dtype=torch.uint8)

    def state(self, s: int) -> dict[str, Tensor]:
        """As of `Server`; and what tells the clients from where to go on."""
        return super().state(s) | {"counted": self.counted, "name": self.name}

    def load_state(self, states: Sequence[dict[str, Tensor]], t: int) -> None:
        super().load_state(states, t)
        self.counted, self.name = states[0]["counted"], states[0]["name"]

    def play(self, clients: Clients, ids: Sequence[int], strict: bool) -> int:
        """One round with these clients; returns how many of them answered.

        strict: a client without an answer, or without its state, stops the run. Raises Stopped, and
        changes nothing then.
        """
        s, probe, exchanges = self.s, self.algorithm.probe, []
        if probe:
            first = self._exchange(clients, "probe", s, ids, strict, start=self.w)
            exchanges.append(first)
            s = s.replace(**{probe.into: mean(first.down.w - first.up.w, first.h.p)})
            ids = first.ids
        last = self._exchange(clients, "batches", s, ids, strict)
        exchanges.append(last)
        if probe and len(last.ids) < len(ids):
            gone = ", ".join(str(k) for k in ids if k not in last.ids)
            raise Stopped(
                f"round {self.t + 1}: {self.algorithm.name} needs the same clients in both"
                f" exchanges of a round, and client {gone} did not answer the second"
            )
        with prepared(self.w.device):
            self.aggregate(last.down, last.up, s, last.h)
            trained = last.up.get("w", last.down.w.expand(-1, len(last.ids), -1))
            self.locals = ([last.ids], trained)
            self.note_round(last.down.w, trained, last.h)
        [measured] = self.measured
        measured.bytes_down += sum(exchange.bytes_down for exchange in exchanges)
        measured.bytes_up += sum(exchange.bytes_up for exchange in exchanges)
        measured.gradients_per_step = sum(exchange.gradients for exchange in exchanges)
        for line in exchanges[0].lost:
            LOG.warning("fedgloss: %s and began from zero", line)
        self.counted[last.ids] = self.t
        self.t += 1
        return len(last.ids)

    def _exchange(
        self,
        clients: Clients,
        purpose: str,
        s: Named,
        ids: Sequence[int],
        strict: bool,
        start: Tensor | None = None,
    ) -> _Exchange:
        """Send the method's message to these clients, and take what comes back; Stopped if nothing.

        start: as of `Server.message`.
        """
        with prepared(self.w.device):
            h = self._facts(clients.samples, ids)
            down = self.message(s, h, start)
            record = pack(down, self.w, self.settled.wire)
            # The method goes on from what the clients got, rounded or not.
            down = unpack(record, self.w, self.settled.wire)
            read = self._reader(self._expected(down, h))
        answers = clients.exchange(record, self._told(purpose, ids, h), read, self.t)
        lost = [f"client {k} has lost its state" for k in answers if answers[k].lost]
        if not answers or (strict and (lost or len(answers) < len(ids))):
            nobody = "" if answers else "no client answered: "
            reasons = in_short([*clients.faults, *lost])
            raise Stopped(f"round {self.t + 1}: {nobody}{reasons}")
        with prepared(self.w.device):
            return _Exchange(
                down,
                _joined(answers),
                self._facts(clients.samples, [*answers]),
                [*answers],
                lost,
                max(answer.gradients for answer in answers.values()),
                size(record) * sum(k in clients.nodes for k in ids),
                sum(answer.size for answer in answers.values()),
            )

    def _facts(self, samples: Mapping[int, int], ids: Sequence[int]) -> Named:
        """The facts of the round for these participants; one who was never here counts nothing."""
        federation, m = self.settled.federation, len(self.counted)
        counts = [samples.get(k, 0) for k in ids]
        sizes = torch.tensor([counts], dtype=torch.float64, device="cpu")
        return round_facts(
            [federation],
            self.t,
            m=m,
            p=sizes / max(sum(counts), 1),
            share=sizes * (m / max(sum(samples.values()), 1)),
            steps=[len(self.settled.batching.sizes(n)) if n else 0 for n in counts],
            full_gradient=_no_data,
            like=self.w.new_empty(()),
        )

    def _told(self, purpose: str, ids: Sequence[int], h: Named) -> dict[int, dict]:
        """What goes to each client beside the message."""
        p, share = (value[0, :, 0].double().tolist() for value in (h.p, h.share))
        name = bytes(self.name.tolist()).hex()
        common = {"round": self.t, "purpose": purpose, "n": len(ids), "run": name}
        return {
            k: {**common, "p": p[i], "share": share[i], "counted": int(self.counted[k])}
            for i, k in enumerate(ids)
        }

    def _expected(self, down: Named, h: Named) -> Named:
        """A message of the form that clients' have: that of one who stood still."""
        zero = torch.zeros_like(down.w)
        names = (*self.algorithm.client_state, *self.algorithm.local_state)
        ones = torch.ones_like(h.p[:, :1])
        one = h.replace(p=ones, share=ones, steps=ones, full_gradient=torch.zeros_like)
        return self.algorithm.finish(down.w, down, Named(**{n: zero for n in names}), one)[1]

    def _reader(self, expected: Named) -> Callable[[ArrayRecord], Named]:
        """How a client's record becomes its message; InputError for what is not as expected."""

        def read(record: ArrayRecord) -> Named:
            up = unpack(record, self.w, self.settled.wire)
            check_form(up, expected)
            return up

        return read


def _joined(answers: Mapping[int, Answer]) -> Named:
    """The clients' messages side by side, each [1, K, ...]."""
    ups = [answer.up for answer in answers.values()]
    return Named(**{name: torch.cat([up[name] for up in ups], dim=1) for name in ups[0]})


def _no_data(w: Tensor) -> Tensor:
    raise InputError("h.full_gradient: the server has no data; ask for it in finish or direction")
