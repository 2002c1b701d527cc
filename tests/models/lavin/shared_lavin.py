"""A batch for the tiny LaVIN: two rows with a picture, one without."""

import torch

__all__ = ["IMAGE", "ROWS", "inputs"]

IMAGE = 97
ROWS = [[1, 11, IMAGE, IMAGE, 20, 21, 22], [1, 12, 13, 14, 15, 16, 17, 18, 19], [1, 11, IMAGE, IMAGE, 30, 31, 32, 33]]


def inputs(rows=ROWS):
    """A left-padded batch with one image for each row that has visual tokens."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    draw = torch.Generator().manual_seed(1)
    pictures = torch.randn(len(ROWS), 3, 16, 16, generator=draw)
    chosen = [pictures[ROWS.index(row)] for row in rows if IMAGE in row]
    out = {"input_ids": ids, "attention_mask": mask}
    return out | ({"pixel_values": torch.stack(chosen)} if chosen else {})
