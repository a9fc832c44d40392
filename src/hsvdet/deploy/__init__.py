"""A trained network in the form it is used in: folded, exported, certified. Imports nothing by itself, because
`artifact` is for places without PyTorch."""
