"""Decoding, training, or both: ``streaming.py KIND FOLDER``."""

import sys
from collections.abc import Iterator

import torch
from common import compete
from torch import Tensor

from lineage.data.batches import Augmentation, training_batches
from lineage.data.datasets import load_dataset
from lineage.models.networks import build_network

BATCH = 32
SIZE = 36

kind, folder = sys.argv[1:]
torch.set_num_threads(1)
data = load_dataset("imagenet", folder, image_size=SIZE)
network = build_network("torchvision:resnet18", 10, (3, SIZE, SIZE)).to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(network.parameters(), 0.01)
rows = torch.arange(len(data.train))
workers = 0 if kind == "decode" else 1
batches = training_batches(data.train, data.spec, rows, BATCH, Augmentation(flip=True), 0, 0, workers=workers)


def endless() -> Iterator[tuple[Tensor, ...]]:
    epoch = 0
    while True:
        epoch += 1
        batches.select_epoch(epoch)
        yield from batches.loader


given = endless()
kept = next(given)


def step(times: int) -> None:
    for _ in range(times):
        images, labels = (kept if kind == "train" else next(given))[:2]
        if kind == "decode":
            continue
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


compete(step)
