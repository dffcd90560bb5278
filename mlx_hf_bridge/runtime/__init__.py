"""The machine that this process runs on: environment variables, BLAS, device, numeric choices and the executor."""
