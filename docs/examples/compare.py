import lineage

comparison = lineage.compare(["digits"], "test_calibration_error")
for entry in comparison.entries:
    print(entry.line, entry.generation, entry.spread.n, entry.spread.mean, entry.spread.deviation)
