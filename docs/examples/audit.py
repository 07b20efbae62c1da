import lineage

for result in lineage.audit("models:/digits/3"):
    print(result.version.uri, result.rates["threshold"]["auc"])
