import lineage

for family in lineage.families():
    print(family.name, family.newest, family.best and family.best.metrics["test_accuracy"])
