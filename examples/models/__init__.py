"""The networks that the binaries build."""
