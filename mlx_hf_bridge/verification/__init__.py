"""Compare a converted model with its float reference: measures, thresholds, functional steps, and reports of them."""
