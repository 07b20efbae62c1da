import lineage

axes = lineage.plot_metric(["digits"], "test_calibration_error")
axes.figure.savefig("calibration.png")
