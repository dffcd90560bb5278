"""A converted model held against its float reference: measures, thresholds, steps, and reports of them."""
