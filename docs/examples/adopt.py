# not run by the tests: needs data that are downloaded
import lineage

adoption = lineage.adopt("imagenet", lineage.Candidate(network="torchvision:resnet18"))
print(adoption.version.uri, adoption.is_new)
