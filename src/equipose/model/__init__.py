"""Networks: encoders, decoder, the pipeline that joins them, losses and optimisers."""
