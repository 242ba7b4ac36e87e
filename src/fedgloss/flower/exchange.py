"""The server's side of the network: which node is which client, and an exchange with some of them.

A client that fails, is not connected or comes late has one line in the log; what that means for the
round is said by whoever asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, sleep

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedgloss.algorithms.core import Named
from fedgloss.errors import InputError, printable
from fedgloss.flower.log import LOG, Stopped
from fedgloss.flower.records import FACTS, MESSAGE, number, size

LOOK_SECONDS = 1.0
"""Between two looks at who is connected, while there are too few."""
SAY_SECONDS = 30.0
"""Between two lines that say so, while nobody comes or leaves."""


@dataclass(frozen=True)
class Answer:
    """What came back from one client."""

    up: Named
    """Each [1, 1, ...]."""
    samples: int
    gradients: float
    """Mini-batch gradients computed for each local step."""
    lost: bool
    """Whether it no longer had the state of its earlier rounds, and began from zero."""
    size: int
    """Bytes of the message."""


class Clients:
    """The clients of a federation as the server sees them: nodes that come and go.

    A node is greeted once, before it takes part: it says which client it is and how many samples it
    has. A client that comes back is another node, and takes the place of its earlier one.
    """

    def __init__(self, grid: Grid, terms: Mapping[str, str], timeout: float | None) -> None:
        """terms: what a node must agree to. timeout: seconds to wait for any answer."""
        self.grid, self.terms, self.timeout = grid, dict(terms), timeout
        self.nodes: dict[int, int] = {}
        """The node of each client that is connected."""
        self.samples: dict[int, int] = {}
        """N_k of each client that was ever connected, as it said last."""
        self.faults: list[str] = []
        """What went wrong since `look` began, a line each."""
        self._greeted: set[int] = set()

    def wait_for(self, nodes: int, limit: float | None, t: int) -> None:
        """Before round t, wait until so many nodes are connected, and greet them.

        limit: seconds to wait; None: as long as it takes. Raises Stopped after them.
        """
        began, said, seen = monotonic(), -SAY_SECONDS, -1
        while (online := len({*self.grid.get_node_ids()})) < nodes:
            waited = monotonic() - began
            if limit is not None and waited >= limit:
                raise Stopped(
                    f"before round {t + 1}: {online} of {nodes} nodes are connected after"
                    f" {limit:g} seconds; start the others, or change min_available or"
                    " connect_timeout"
                )
            if online != seen or waited - said >= SAY_SECONDS:
                until = "" if limit is None else f", for at most {limit - waited:.0f} seconds"
                LOG.info("fedgloss: %d of %d nodes are connected; waiting%s", online, nodes, until)
                said, seen = waited, online
            sleep(LOOK_SECONDS)
        self.look()

    def look(self) -> None:
        """See who is connected now, and greet those who are new."""
        self.faults = []
        online = {*self.grid.get_node_ids()}
        self.nodes = {k: node for k, node in self.nodes.items() if node in online}
        new = sorted(online - self._greeted)
        self._greeted = online  # who has left in the meantime is greeted again
        if not new:
            return
        content = RecordDict({FACTS: ConfigRecord(dict(self.terms))})
        replies = self._send({node: content for node in new}, MessageType.QUERY)
        came: dict[int, int] = {}
        for node in new:
            try:
                facts = _facts(self._reply_of(replies.get(node)))
                k, samples = int(number(facts.get("client"))), int(number(facts.get("samples")))
                if not 0 <= k < int(self.terms["clients"]) or samples < 1:
                    raise InputError(f"it says that it is client {k}, with {samples} samples")
            except InputError as error:
                self._fault(f"node {node} takes no part: {error}")
                continue
            if k in came:
                raise InputError(
                    f"node-config: nodes {came[k]} and {node} are both client {k}; give each"
                    " SuperNode a partition-id of its own"
                )
            if k in self.nodes:
                LOG.warning("fedgloss: client %d is now node %d", k, node)
            came[k], self.samples[k] = node, samples
        self.nodes |= came

    def exchange(
        self,
        message: ArrayRecord,
        facts: Mapping[int, Mapping[str, str | int | float]],
        read: Callable[[ArrayRecord], Named],
        t: int,
    ) -> dict[int, Answer]:
        """Send a message to the clients that `facts` names, with the facts for each.

        read: from a client's record to its message; InputError refuses it. Returns the answers in
        the order of the clients, of those who gave one.
        """
        absent = [k for k in facts if k not in self.nodes]
        for k in absent:
            self._fault(f"client {k} is not connected, or was refused")
        contents = {
            self.nodes[k]: RecordDict({MESSAGE: message, FACTS: ConfigRecord(dict(told))})
            for k, told in facts.items()
            if k not in absent
        }
        replies = self._send(contents, MessageType.TRAIN, str(t + 1)) if contents else {}
        answers = {}
        for k in facts:
            if k in absent:
                continue
            try:
                answers[k] = _answer(self._reply_of(replies.get(self.nodes[k])), read)
            except InputError as error:
                self._fault(f"client {k}: {error}")
                continue
            self.samples[k] = answers[k].samples
        return answers

    def _send(
        self, contents: Mapping[int, RecordDict], kind: str, group: str = ""
    ) -> dict[int, RecordDict | str]:
        """Send each node its records; returns the records or errors that came back in time."""
        messages = [
            Message(content, node, kind, ttl=self.timeout, group_id=group)
            for node, content in contents.items()
        ]
        replies = self.grid.send_and_receive(messages, timeout=self.timeout)
        sent = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
        return {
            sent[reply.metadata.reply_to_message_id]: (
                _in_one_line(reply.error.reason) if reply.has_error() else reply.content
            )
            for reply in replies
            if reply.metadata.reply_to_message_id in sent
        }

    def _reply_of(self, reply: RecordDict | str | None) -> RecordDict:
        """What came back; InputError for an error or nothing."""
        if reply is None:
            waited = "" if self.timeout is None else f" within {self.timeout:g} seconds"
            raise InputError(f"no answer{waited}")
        if isinstance(reply, str):
            raise InputError(reply)
        return reply

    def _fault(self, line: str) -> None:
        LOG.warning("fedgloss: %s", line)
        self.faults.append(line)


def _answer(content: RecordDict, read: Callable[[ArrayRecord], Named]) -> Answer:
    """A client's answer; InputError if it is none."""
    arrays, facts = content.array_records.get(MESSAGE), _facts(content)
    if arrays is None:
        raise InputError("its answer has no message")
    samples, gradients = int(number(facts.get("samples"))), number(facts.get("gradients"))
    if samples < 1:
        raise InputError(f"it says that it has {samples} samples")
    return Answer(read(arrays), samples, gradients, bool(facts.get("lost")), size(arrays))


def _facts(content: RecordDict) -> Mapping[str, object]:
    """The numbers beside a message; InputError if there are none."""
    facts = content.metric_records.get(FACTS)
    if facts is None:
        raise InputError("its answer is not one of fedgloss.flower's")
    return facts


def _in_one_line(reason: str | None) -> str:
    """What an error says, short; Flower puts the kind of exception around it."""
    text = " ".join((reason or "it failed, and does not say why").split())
    return printable(text)[:300]
