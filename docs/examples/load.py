import torch

import lineage

model = lineage.load("models:/digits@best")
pixels = torch.rand(5, 1, 8, 8)  # (B, C, H, W), float32 in [0, 1]
print(model.logits(pixels).shape)  # (B, classes); normalises the pixels as in training
print(model.class_names, model.mean, model.std)
mean, std = torch.tensor(model.mean).view(-1, 1, 1), torch.tensor(model.std).view(-1, 1, 1)
print(model.network.features((pixels - mean) / std).shape)  # what the classifier sees, (B, D)
