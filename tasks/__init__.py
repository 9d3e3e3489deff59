"""Learning problems: each task owns its data, its sizes, its loss and its metrics.

Nothing here knows a model or a training loop. A concrete task is built from plain values, for
example `tasks.word_problem.WordProblem(group="S5", length=12)` or
`tasks.signature.SignatureTask(dimension=3, word=(1, 2, 3))`.
"""
