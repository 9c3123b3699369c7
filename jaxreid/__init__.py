"""Person re-identification in JAX: five papers, one training loop, one evaluator.

Nothing is imported before it is used. Where things are:

    jaxreid.command      load_config("duatm_market"); jaxreid.config: every key that a config has
    jaxreid.main         run(config, workdir): training and scores
    jaxreid.search       Extractor(workdir): features and ranks of your own pictures
    jaxreid.models       the methods, a file for each paper
    jaxreid.backbones    their networks; jaxreid.pretrained: weights for them made elsewhere
    jaxreid.ops, .losses, .metrics, .matching
                         the mathematics, as functions of arrays
    jaxreid.data         data sets, and how they are read
    jaxreid.report       pictures, the page of a run, tables; jaxreid.export: the network alone

Mistakes in what is given to it raise `jaxreid.errors.UserError`.
"""

__version__ = "0.1.0"
