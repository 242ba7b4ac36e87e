"""Work in CUDA streams of its own: what waits for what."""

from contextlib import contextmanager

import pytest
import torch

from fedgloss.engine.backends import abreast as module
from fedgloss.engine.backends.abreast import abreast


class Gpu:
    """Takes down what is asked of it, in order, and in which stream."""

    def __init__(self):
        self.asked, self.made = [], 0
        self.current = self.stream()

    def stream(self, device=None, priority=0):
        gpu, number = self, self.made
        self.made += 1

        class Stream:
            cuda_stream = number

            def wait_stream(self, other):
                gpu.asked.append((number, "waits for", other.cuda_stream))

        return Stream()

    @contextmanager
    def opened(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Stream", gpu.stream)
    monkeypatch.setattr(torch.cuda, "stream", gpu.opened)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: gpu.current)
    module._streams.cache_clear()
    yield gpu
    module._streams.cache_clear()


def work(gpu, name, fails=False):
    def done():
        gpu.asked.append((gpu.current.cuda_stream, "does", name))
        if fails:
            raise ValueError(name)
        return name

    return done


CUDA = torch.device("cuda")


def test_each_follows_its_caller_and_the_caller_follows_all(gpu):
    assert abreast([work(gpu, "a"), work(gpu, "b")], CUDA) == ["a", "b"]
    assert gpu.asked == [
        (1, "waits for", 0),
        (1, "does", "a"),
        (2, "waits for", 0),
        (2, "does", "b"),
        (0, "waits for", 1),
        (0, "waits for", 2),
    ]
    abreast([work(gpu, "c")], CUDA)
    assert gpu.asked[-2] == (3, "does", "c")


def test_callers_in_other_streams_share_none(gpu):
    abreast([work(gpu, "a"), work(gpu, "b")], CUDA)
    with gpu.opened(gpu.stream()):
        abreast([work(gpu, "c"), work(gpu, "d")], CUDA)
    used = {what: stream for stream, does, what in gpu.asked if does == "does"}
    assert len(set(used.values())) == 4


def test_a_failure_leaves_nothing_that_nobody_waits_for(gpu):
    with pytest.raises(ValueError, match="b"):
        abreast([work(gpu, "a"), work(gpu, "b", fails=True), work(gpu, "c")], CUDA)
    assert gpu.asked[-2:] == [(0, "waits for", 1), (0, "waits for", 2)]


def test_without_a_gpu_it_is_done_in_order(gpu):
    assert abreast([work(gpu, "a"), work(gpu, "b")], torch.device("cpu")) == ["a", "b"]
    assert gpu.asked == [(0, "does", "a"), (0, "does", "b")]
