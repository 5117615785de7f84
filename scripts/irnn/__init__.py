"""The IRNN paper's experiments (Le, Jaitly and Hinton, 2015): what they are, what ours came to, the page of both.

scripts/irnn/__main__.py is the command; the configs are in configs/irnn, the paper's numbers in
docs/results/irnn_paper.json.
"""
