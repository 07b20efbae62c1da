import torch

import lineage

exported = lineage.export("models:/digits@best", "digits-pt2", to="pt2")
print(exported.files, exported.difference)
network = torch.export.load("digits-pt2/model.pt2").module()  # needs no lineage
print(network(torch.rand(5, 1, 8, 8)).shape)  # pixels (B, C, H, W), float32 in [0, 1]
