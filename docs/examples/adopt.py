# not run by the tests: needs data that are downloaded
import lineage
from lineage.exchange.adopt import Candidate

adoption = lineage.adopt("imagenet", Candidate(network="torchvision:resnet18"))
print(adoption.version.uri, adoption.is_new)
