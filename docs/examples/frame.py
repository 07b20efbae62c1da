import lineage

table = lineage.frame("digits")
print(table[["generation", "seed", "teacher", "test_accuracy"]])
print(table.groupby("generation").test_accuracy.agg(["mean", "std", "count"]))
