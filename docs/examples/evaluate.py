import lineage

evaluation = lineage.evaluate("models:/digits/3")
print(evaluation.metrics["test_accuracy"], evaluation.recorded["test_accuracy"])
