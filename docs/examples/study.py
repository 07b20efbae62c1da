import lineage

result = lineage.study(
    "digits",
    name="from-python",
    space=["strictness=0.5,1.0"],
    trials=1,
    overrides=["training.epochs=1", "succession.generations=0"],
)
print(result.to_json())
