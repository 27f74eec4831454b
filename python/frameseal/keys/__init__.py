"""Key providers, key rotation, codes that people compare, and a client for key servers."""
