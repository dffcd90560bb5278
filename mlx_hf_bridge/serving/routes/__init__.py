"""The HTTP routes: one file for each protocol, which turns its requests into tasks and results into its responses."""
