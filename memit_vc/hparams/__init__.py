"""Hyperparameters: EasyEdit's format, the shipped files, and a guess for a model that has none."""

from memit_vc.hparams.guess import guess as guess
from memit_vc.hparams.params import MEMITHyperParams as MEMITHyperParams
from memit_vc.hparams.shipped import for_model as for_model
from memit_vc.hparams.shipped import shipped as shipped
