import matplotlib.pyplot as plt

import lineage

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
lineage.plot_reliability(["models:/digits/1", "models:/digits@best"], ax=left)
lineage.plot_confusion("models:/digits@best", ax=right)
figure.savefig("digits.png")
