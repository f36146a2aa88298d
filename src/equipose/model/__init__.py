"""Networks: encoders, decoder, the model of both, losses and optimisers."""
