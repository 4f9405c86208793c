"""The torch engine: models, penalties and training on tensors.

Nothing in here knows scikit-learn; the estimators and the analysis functions
of the package are built on top of it and never the other way round.

Suffixes of tensor names give their axes: ``B`` samples of a batch, ``M``
features, ``L`` sites, ``D`` width of a site, ``F`` = ``L * D`` flattened
columns, ``N`` neurons, ``O`` outputs of an MLP, ``R`` rank of a dominant
feature (0 is the largest), ``A`` active entries of codes, ``P`` pairs of features.
"""
