"""The networks. Torch only: nothing here reads data sets, options or command lines."""
