import lineage

difference = lineage.diff("models:/digits/2", "models:/digits/3")
print(f"agreement {difference.agreement:.2%}, CKA {difference.cka:.3f}")
