"""A round of the federation, as the server plays it with clients that are elsewhere."""

import secrets
from collections.abc import Callable, Mapping, Sequence

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedgloss.algorithms.core import Named, mean
from fedgloss.engine.federation import round_facts
from fedgloss.engine.server import Server
from fedgloss.engine.start import prepared
from fedgloss.errors import InputError
from fedgloss.flower.deployment import Settled
from fedgloss.flower.exchange import LOG, Answer, Clients, Stopped
from fedgloss.flower.records import check_shapes, pack, size, unpack


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

        strict: a client without an answer stops the run. Raises Stopped, and changes nothing then.
        """
        s, probe, invited, gradients = self.s, self.algorithm.probe, [*ids], 0.0
        where, bytes_down, bytes_up = f"round {self.t + 1}", 0, 0
        exchanges = [("probe", self.w)] if probe else []
        for purpose, start in [*exchanges, ("batches", None)]:
            with prepared(self.w.device):
                h = self._facts(clients.samples, invited)
                down = self.message(s, h, start)
                record = pack(down, self.settled.wire)
                # The method goes on from what the clients got, rounded or not.
                down = unpack(record, self.w[0, :, :0], self.settled.wire)
                expected = self._expected(down, h)
            answers = clients.exchange(
                record, self._told(purpose, invited, h), self._reader(expected), self.t
            )
            if strict and len(answers) < len(invited):
                raise Stopped(f"{where}: {'; '.join(clients.faults)}")
            if not answers:
                raise Stopped(f"{where}: no client answered: {'; '.join(clients.faults)}")
            if purpose == "batches" and probe and len(answers) < len(invited):
                gone = ", ".join(str(k) for k in invited if k not in answers)
                raise Stopped(
                    f"{where}: {self.algorithm.name} needs the same clients in both exchanges of a"
                    f" round, and client {gone} did not answer the second"
                )
            bytes_down += size(record) * sum(k in clients.nodes for k in invited)
            bytes_up += sum(answer.size for answer in answers.values())
            gradients += max(answer.gradients for answer in answers.values())
            invited = [*answers]
            with prepared(self.w.device):
                h, up = self._facts(clients.samples, invited), _joined(answers)
                if probe and purpose == "probe":
                    s = s.replace(**{probe.into: mean(down.w - up.w, h.p)})
        with prepared(self.w.device):
            self.aggregate(down, up, s, h)
            trained = up["w"] if "w" in up else down.w.expand(-1, len(invited), -1)
            self.locals = ([invited], trained)
            self.note_round(down.w, trained, h)
        [measured] = self.measured
        measured.bytes_down += bytes_down
        measured.bytes_up += bytes_up
        measured.gradients_per_step = gradients
        for k, answer in answers.items():
            if answer.lost:
                LOG.warning("fedgloss: client %d had lost its state and began from zero", k)
        self.counted[invited] = self.t
        self.t += 1
        return len(invited)

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
            up = unpack(record, self.w[0, :, :0], self.settled.wire)
            check_shapes(up, expected)
            return up

        return read


def _joined(answers: Mapping[int, Answer]) -> Named:
    """The clients' messages side by side, each [1, K, ...]."""
    ups = [answer.up for answer in answers.values()]
    return Named(**{name: torch.cat([up[name] for up in ups], dim=1) for name in ups[0]})


def _no_data(w: Tensor) -> Tensor:
    raise InputError("h.full_gradient: the server has no data; ask for it in finish or direction")
