"""TensorBoard files of a run: its scalars, over the count of the budget, and what an agent may offer in addition.

The scalars are a copy of metrics.jsonl and are written again when a run is resumed. Histograms and numbers of features
exist only in the event files, so that no record depends on them. A resumed run keeps those up to its checkpoint.
"""

from __future__ import annotations

import importlib
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.spec import Array

OWN = ("histograms/", "features/")
"""Beginnings of the tags that are in the event files alone."""
BINS = 64
"""Bars of a histogram, of equal width from its smallest to its largest value."""


def import_writer() -> None:
    """Import TensorBoard's writer ahead of its first use."""
    for module in ("compat.proto.summary_pb2", "summary.writer.event_file_writer"):
        importlib.import_module(f"tensorboard.{module}")


class Board:
    """Events by TensorBoard's own writer (`torch.utils.tensorboard` would import torch).

    Scalars are simple values, as torch writes them: `EventAccumulator.Scalars` reads all of them, while of the tensors
    that `tensorboard.summary.Writer` makes it keeps ten.
    """

    def __init__(self, path: Path, lines: list[dict[str, Any]], clock: str = "episodes") -> None:
        """path: folder of the event files, replaced by new ones. lines: the evaluations so far. clock: the column that
        is the axis, episodes or env_steps."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

        self.clock = clock
        kept = list(_own_events(path, until=lines[-1][clock])) if lines else []
        shutil.rmtree(path, ignore_errors=True)
        self._writer = EventFileWriter(str(path))
        for line in lines:
            self.scalars(line)
        for event in kept:
            self._writer.add_event(event)

    def scalars(self, line: dict[str, Any]) -> None:
        """The numbers of one evaluation."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        values = [
            Summary.Value(tag=name if "/" in name else f"run/{name}", simple_value=float(value))
            for name, value in line.items()
            if name != self.clock and value is not None
        ]
        self._add(line[self.clock], values)

    def histograms(self, count: int, arrays: dict[str, Array]) -> None:
        """Distributions of the arrays' elements at a count of the clock, under "histograms/<name>".

        Values that are NaN or infinite have no place in one: their number is written as a scalar of the same tag with
        "_not_finite" behind it.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = []
        for name, array in arrays.items():
            x = np.asarray(array, dtype=np.float64).ravel()
            finite = x[np.isfinite(x)]
            if len(finite):
                values.append(Summary.Value(tag=f"histograms/{name}", histo=_bars(finite)))
            if len(finite) < len(x):
                tag = f"histograms/{name}_not_finite"
                values.append(Summary.Value(tag=tag, simple_value=float(len(x) - len(finite))))
        self._add(count, values)

    def features(self, count: int, numbers: dict[str, float]) -> None:
        """Numbers of an agent's features at a count of the clock, under "features/<name>"."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(count, [Summary.Value(tag=f"features/{name}", simple_value=x) for name, x in numbers.items()])

    def flush(self) -> None:
        """Everything to the disk."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


def _bars(x: Array) -> Any:
    """HistogramProto of finite values x (n,), n >= 1."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto

    low, high = float(x.min()), float(x.max())
    # One bar for equal values; where they are a few roundings apart, an inner edge may pass the last one.
    edges = np.maximum.accumulate(np.linspace(low, high, BINS + 1 if low < high else 2))
    count, _ = np.histogram(x, edges)
    return HistogramProto(
        min=low,
        max=high,
        num=len(x),
        sum=float(x.sum()),
        sum_squares=float(np.square(x).sum()),
        bucket_limit=edges[1:],
        bucket=count,
    )


def _own_events(path: Path, until: int) -> Iterator[Any]:
    """The events that no line of metrics.jsonl gives again, in the files of `path`, up to `until` on the clock."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    for file in sorted(path.glob("events.out.tfevents.*")):
        for record in _records(file.read_bytes()):
            try:
                event = Event.FromString(record)
            except DecodeError:  # half a record, or a damaged file: what lies behind has no known place
                break
            if event.step <= until and any(value.tag.startswith(OWN) for value in event.summary.value):
                yield event


def _records(data: bytes) -> Iterator[bytes]:
    """The records of an event file: length (8 bytes), checksum (4), data, checksum (4); the last may be half."""
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield data[at + 12 : at + 12 + length]
        at += length + 16
