"""Agents: whoever speaks for a role. A simulation knows nothing of an agent but the protocol in `base`."""
