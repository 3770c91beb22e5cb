"""Choose what to mask when a pretrained model keeps pretraining on a new domain (arXiv 2305.14577)."""
