import lineage

report = lineage.report(["digits"])
print(report.files[0])
