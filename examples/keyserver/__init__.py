"""A server that makes meeting keys and sends them to admitted participants. See docs/guide/distributing-keys.md."""
