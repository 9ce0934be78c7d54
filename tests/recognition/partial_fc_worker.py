"""One rank of the test of the class-parallel head: ``python partial_fc_worker.py RANK RANKS FOLDER``.

Reads ``FOLDER/input.pt``, writes ``FOLDER/rank-RANK.pt``.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn

from facekd.engine.loop import clip_gradients
from facekd.recognition.data.shards import FaceSet
from facekd.recognition.data.stored_teacher import StoredEmbeddings
from facekd.recognition.margins import MARGIN_HEADS
from facekd.recognition.partial_fc import PartialFC
from facekd.recognition.train import EmbedderTask, Recipe, with_teachers


def steps(name: str, given: dict, rank: int) -> dict:
    """Two steps of a head without an optimiser: the second sees statistics that the first has moved."""
    head = PartialFC(partial(MARGIN_HEADS[name], scale=16.0), *given["centres"].shape, averaged=False)
    head.set_centres(given["centres"])
    losses, gradients = [], []
    for embeddings, labels in given["batches"]:
        mine = embeddings.chunk(2)[rank].clone().requires_grad_()
        head.zero_grad()
        loss = head(mine, labels.chunk(2)[rank])
        loss.backward()
        losses.append(loss.detach())
        gradients.append((mine.grad, head.head.weight.grad.clone()))
    buffers = {key: value.clone() for key, value in head.head.named_buffers()}
    return {"losses": losses, "gradients": gradients, "buffers": buffers, "centres": head.all_centres()}


def data_parallel(given: dict, rank: int) -> torch.Tensor:
    """The gradient of a backbone's weights under DistributedDataParallel."""
    backbone = nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        backbone.weight.copy_(given["backbone"])
    parallel = nn.parallel.DistributedDataParallel(backbone)
    head = PartialFC(partial(MARGIN_HEADS["curricularface"], scale=16.0), *given["centres"].shape)
    head.set_centres(given["centres"])
    embeddings, labels = given["batches"][0]
    head(parallel(embeddings.chunk(2)[rank]), labels.chunk(2)[rank]).backward()
    return backbone.weight.grad


def sampled(given: dict, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss over sampled classes, and which of all classes this rank drew."""
    head = PartialFC(partial(MARGIN_HEADS["arcface"], scale=16.0), *given["centres"].shape, sample_rate=0.4)
    head.set_centres(given["centres"])
    embeddings, labels = given["batches"][1]
    loss = head(embeddings.chunk(2)[rank], labels.chunk(2)[rank])
    head.draws.zero_()
    return loss.detach(), head._sample(labels) + head.first


def embedder(rank: int) -> dict:
    """Three steps of a recipe whose people are spread over the ranks."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(7), 2)
    crops = rng.integers(0, 256, (14, 112, 112, 3), dtype=np.uint8)
    faces = FaceSet(crops, labels, tuple("abcdefg"), {"t": StoredEmbeddings(rng.normal(size=(14, 5)))})
    recipe = Recipe.model_validate(
        {
            "kind": "embedder",
            "training": {"steps": 3, "learning_rate": 0.1},
            "network": {"dimension": 8, "options": {"widths": [16, 16, 16, 16], "blocks": [0, 1, 1, 1]}},
            "data": {"batch": 4, "sizes": [[0.0, 32]]},
            "margin": {"ramp": [0.0, 0.0], "sample_rate": 0.5},
            "distill": {"teachers": {"t": {"kind": "stored"}}, "terms": [{"method": "cosine"}]},
        }
    )
    task = with_teachers(EmbedderTask(recipe, faces, faces), faces)
    head = task.module["task"]["head"]
    optimizer = torch.optim.SGD(task.module.parameters(), lr=0.1)
    first = {name: value.clone() for name, value in task.module.named_parameters()}
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        terms = task.losses(task.batch(step), step, 0.5)
        sum(terms.values()).backward()
        optimizer.step()
        losses.append(terms["margin"].item())
    return {
        "drawn": task.batch(0)["crops"],
        "first": first,
        "student": {name: value.detach() for name, value in task.student.named_parameters()},
        "adapter": {name: value.detach() for name, value in task.distiller.named_parameters()},
        "classes": len(head.head.weight),
        "losses": losses,
    }


def clipped(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients after clipping: of a copy that all ranks have, and of a part that is this rank's own."""
    module = nn.ModuleList([nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)])
    module[0].weight.grad = torch.tensor([[3.0, 4.0]])
    module[1].weight.grad = torch.tensor([[0.0 if rank == 0 else 12.0]])
    clip_gradients(module, 6.5)
    return module[0].weight.grad, module[1].weight.grad


def main() -> None:
    rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    given = torch.load(folder / "input.pt")
    result = {name: steps(name, given, rank) for name in MARGIN_HEADS}
    result["data_parallel"] = data_parallel(given, rank)
    result["sampled"] = sampled(given, rank)
    result["embedder"] = embedder(rank)
    result["clipped"] = clipped(rank)
    torch.save(result, folder / f"rank-{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
