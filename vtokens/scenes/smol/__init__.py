"""scenes-smol: a LLaVA whose language model is the pretrained SmolLM2-135M, read from an installed package's files."""
