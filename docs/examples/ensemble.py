import lineage

ensemble = lineage.ensemble(["models:/digits/3"])  # with all its teachers
print([version.uri for version in ensemble.members])
print(ensemble.prefix_metrics[-1]["accuracy"])
