"""The library behind the lessons of the book *Why Deep Networks Train*.

One module a lesson (`batch_norm`, `resnet`, `densenet`, `objectives`, `convexity`, `gradient_descent`, `sgd`,
`learning_rate`, `minibatch`), and those that the lessons share: `data` (Fashion-MNIST), `training` (one training loop),
beside it `checkpoints`, `processes` and `files`, `checks` (of arguments), `figures` (one look for all plots) and
`sliders` (one slider for every host). The lesson on optimisation is about the test functions of `objectives`, which
later lessons use too.
"""
