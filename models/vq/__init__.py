"""Motion tokenizers: convolutional encoder and decoder around one quantizer or a stack of residual ones."""
