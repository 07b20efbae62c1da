import lineage

predicted = lineage.predictions("models:/digits@best")
wrong = predicted.classes[:, 0] != predicted.labels
print(f"{wrong.sum()} of {len(predicted)} images are wrong")
second = (predicted.classes[:, 1] == predicted.labels)[wrong]
print(f"the second class is right for {second.sum()} of them")
