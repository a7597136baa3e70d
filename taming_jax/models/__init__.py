"""The networks, one frozen dataclass of settings beside each."""
