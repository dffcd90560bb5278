"""What this process runs on: environment variables, the BLAS, the device and its numeric choices, and the executor."""
