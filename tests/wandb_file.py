"""Reads an offline W&B run: a LevelDB log of protobuf records behind a header of seven bytes."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator[Record]:
    data, at, whole = path.read_bytes(), HEADER, b""
    assert data.startswith(b":W&B")
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # too little left in the block for a chunk: it is padding
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # a full record, or the last chunk of one
            yield Record.FromString(whole)
            whole = b""


def configs(folder: Path) -> list[dict[str, Any]]:
    """The configuration of every W&B run below a folder."""
    found = []
    for file in sorted(folder.rglob("*.wandb")):
        config: dict[str, Any] = {}
        for record in records(file):
            for updates in (record.run.config.update, record.config.update):
                config |= {item.key: json.loads(item.value_json) for item in updates if item.key}
        found.append(config)
    return found
