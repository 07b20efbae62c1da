import lineage

forecast = lineage.forecast("digits", generations=3)
for expected in forecast.generations:
    print(expected.generation, expected.version and expected.version.uri, expected.seconds)
