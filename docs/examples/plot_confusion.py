import lineage

axes = lineage.plot_confusion("models:/digits@best")
print(axes.get_title(loc="left"))
