# not run by the tests: needs data that are downloaded
import lineage

results = lineage.transfer(
    "models:/cifar100-small/3", "cifar10", ancestors=None, overrides=["data.root=/data/cifar10"]
)
for result in results:
    print(result.version.uri, result.metrics["transfer_accuracy"])
