"""Visual tokens under strategies in programs of others: engines that run the decoder, and clusters."""
