import lineage

(grown,) = lineage.grow("digits", generations=2)  # registered already: nothing is trained
print(grown.num_trained, [version.uri for version in grown.versions])

(branch,) = lineage.grow(teacher="models:/digits/2", seeds=[8], overrides=["training.epochs=1"])
print(branch.versions[0].metrics["test_accuracy"])
