import lineage

report = lineage.draw_report(["digits"])
print(report.files[0])
