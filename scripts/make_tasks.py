"""Write the embedded task sets as parquet in the hub's layout, so that what is shipped can be made again byte for byte in content.

python scripts/make_tasks.py            # writes src/bitzones/embedded/data/NAME/{train,test}-00000-of-00001.parquet
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from bitzones import embedded
from embedded_tasks import science_mini, word_problems_mini

SEED = 1
ITEMS = 500
"""Per split: the test split is what is scored, the train split is what calibration reads."""

SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


def items(name: str, split: Literal["train", "test"]) -> list[dict[str, Any]]:
    generated = (science_mini if name == "science_mini" else word_problems_mini).generate(SEED, split, ITEMS)
    return [dict(item) for item in generated]


if __name__ == "__main__":
    for name in ("science_mini", "word_problems_mini"):
        for split in SPLITS:
            path = embedded.DATA / name / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(items(name, split)), path)
